"""Decides whether an adapter is better than the base and the champion. Pure: losses in, a verdict out.

Each row is compared with itself under both models, so that a hard row weighs on neither side. The gain is the
difference of the losses per completion token (sum of negative log-likelihoods / sum of tokens), with a bootstrap
interval over rows (`paired_bootstrap`), where the copies of a row count as one row. The best of k candidates looks
better than it is on the rows that chose it, so the interval has confidence 1 - 0.05 / k: all k intervals hold at once
in 95 of 100 promotions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sweeps.record.paired_bootstrap import FEW_ROWS, LEAST_ROWS, confidence_of, copies, intervals
from trainables.scoring.requests import BASE, Scores

CHAMPION = "champion"
"""The name under which the present champion is scored."""


@dataclass(frozen=True)
class Comparison:
    """Compares one candidate with the base or the champion."""

    candidate: str
    against: str
    gain: float
    """How much lower the candidate's loss is, in nats per completion token."""
    low: float
    high: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """The gate's decision on the best candidate, and all that it compared."""

    winner: str
    """The candidate with the lowest loss on the rows that decide."""
    passed: bool
    reasons: tuple[str, ...]
    """Why it did not pass; empty when it did."""
    losses: Mapping[str, float]
    """Name of a candidate, BASE or CHAMPION -> its loss per completion token, in nats."""
    comparisons: tuple[Comparison, ...]
    """All comparisons, the winner's first."""
    min_gain: float
    confidence: float
    rows: int
    """Rows that decide, without copies of others."""
    warnings: tuple[str, ...] = ()

    def of(self, candidate: str) -> list[Comparison]:
        """The comparisons of one candidate, that with the champion last."""
        return [comparison for comparison in self.comparisons if comparison.candidate == candidate]


def decide(
    scores: Mapping[str, Scores], candidates: Sequence[str], min_gain: float, rng: np.random.Generator
) -> Verdict:
    """Decides on the candidate with the lowest loss.

    It passes when against the base, and against the champion where there is one, its gain is at least `min_gain` and
    the interval of the gain lies above zero.

    Args:
        scores: of the candidates, `BASE` and, if there is one, `CHAMPION`, all on the same rows.
        candidates: their names; of equal losses the first one wins.
        min_gain: in nats per completion token.
    """
    different = _different_rows(scores)
    losses = {name: each.loss for name, each in scores.items()}
    winner = min(candidates, key=lambda name: losses[name])
    confidence = confidence_of(len(candidates))
    references = [name for name in (BASE, CHAMPION) if name in scores]
    ordered = [winner, *(name for name in candidates if name != winner)]
    comparisons = tuple(
        _compare(name, different[name], reference, different[reference], (min_gain, confidence), rng)
        for name in ordered
        for reference in references
    )
    reasons = tuple(
        _reason(comparison, min_gain, confidence)
        for comparison in comparisons
        if comparison.candidate == winner and not comparison.passed
    )
    rows, said = len(different[winner].row_losses), len(scores[winner].row_losses)
    only = f"only {rows} rows decide" + (f" ({said} with copies)" if said > rows else "")
    if rows < LEAST_ROWS:
        reasons = (f"{only}: at least {LEAST_ROWS} are needed", *reasons)
    few = (f"{only}: with fewer than {FEW_ROWS} the interval may be too narrow",) if rows < FEW_ROWS else ()
    return Verdict(winner, not reasons, reasons, losses, comparisons, min_gain, confidence, rows, few)


def _different_rows(scores: Mapping[str, Scores]) -> dict[str, Scores]:
    """The scores with one row for all copies of a row, of their losses and tokens together."""
    first, *others = scores.items()
    for name, each in others:
        if each.row_tokens != first[1].row_tokens:
            raise ValueError(f"{name} and {first[0]} were not scored on the same rows")
    numbers = copies(first[1].row_tokens, [each.row_losses for each in scores.values()])
    tokens = tuple(np.bincount(numbers, first[1].row_tokens).astype(int).tolist())
    return {
        name: Scores(row_losses=tuple(np.bincount(numbers, each.row_losses).tolist()), row_tokens=tokens)
        for name, each in scores.items()
    }


def _compare(
    name: str, scores: Scores, against: str, reference: Scores, rule: tuple[float, float], rng: np.random.Generator
) -> Comparison:
    min_gain, confidence = rule
    gains = [theirs - ours for ours, theirs in zip(scores.row_losses, reference.row_losses, strict=True)]
    gain = sum(gains) / sum(scores.row_tokens)
    ((low, high),) = intervals([gains], scores.row_tokens, confidence, rng)
    return Comparison(name, against, gain, low, high, gain >= min_gain and low > 0)


def _reason(comparison: Comparison, min_gain: float, confidence: float) -> str:
    """Says why a comparison did not pass."""
    candidate, against, gain = comparison.candidate, comparison.against, comparison.gain
    if gain <= 0:
        return f"{candidate} is not better than the {against}: gain {gain:+.4f}"
    if gain < min_gain:
        return f"{candidate} gains {gain:.4f} on the {against}, less than min_gain {min_gain:g}"
    span = f"[{comparison.low:+.4f}, {comparison.high:+.4f}]"
    return f"{candidate}'s gain on the {against} may be chance: {confidence:.1%} interval {span} holds zero"


@dataclass(frozen=True)
class Agreement:
    """Says how far a second evaluation is from the one that a trial reported."""

    difference: float
    """Sum of the rows' absolute differences per token, in nats. Absolute, so that rows cannot cancel each other."""
    tolerance: float
    hardware: str
    """Of the second evaluation; of both where they differ."""

    @property
    def holds(self) -> bool:
        """Whether it is the same adapter on the same base and the same rows."""
        return self.difference <= self.tolerance


def agreement(reported: Scores, reported_on: str, now: Scores, now_on: str) -> Agreement:
    """Compares an adapter's scores with those that its trial reported.

    The tolerance depends on the type of the activations. In float32, packed training and plain PEFT agree within 1e-5
    (tests/trainables/packing/test_adapter_pack.py); the tolerance is ten times that, for other versions of the
    libraries. 16-bit types keep 8 to 11 bits, and rounding depends on the other rows of a pass: 0.02. On another
    device sums are computed in another order: ten times as much in float32, twice as much in 16 bits. The widest
    tolerance holds when it is unknown on what a trial was evaluated.
    """
    if reported.row_tokens != now.row_tokens:
        return Agreement(float("inf"), 0.0, "other rows or tokens")
    gaps = (abs(ours - theirs) for ours, theirs in zip(now.row_losses, reported.row_losses, strict=True))
    difference = sum(gaps) / sum(now.row_tokens)
    words = now_on if reported_on == now_on else f"{reported_on or 'unknown'}, now {now_on}"
    return Agreement(difference, tolerance(reported_on, now_on), words)


def tolerance(reported_on: str, now_on: str) -> float:
    """The largest difference per token, in nats, that is no error; see `agreement`."""
    if not reported_on:
        return 0.04
    (device, dtype), (device_now, dtype_now) = reported_on.split(), now_on.split()
    if dtype == dtype_now == "float32":
        return 1e-4 if device == device_now else 1e-3
    return 0.02 if (device, dtype) == (device_now, dtype_now) else 0.04
