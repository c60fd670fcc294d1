"""Whether an adapter is better than what it would replace. Pure: losses in, a verdict out.

Rows are compared in pairs, the same row under both models, so that hard rows weigh on neither side. The gain is the
difference of the losses per completion token, sum of negative log-likelihoods / sum of tokens, with an interval of the
bootstrap over rows (`bootstrap`). Choosing the best of k candidates on the rows that decide makes the best look better
than it is, so the interval has confidence 1 - 0.05 / k: all k intervals hold at once in 95 of 100 promotions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sweeps.record.bootstrap import FEW_ROWS, LEAST_ROWS, confidence_of, interval
from trainables.scoring.requests import BASE, Scores

CHAMPION = "champion"
"""The name that the present champion is scored under."""


@dataclass(frozen=True)
class Comparison:
    """One candidate against the base or the champion."""

    candidate: str
    against: str
    gain: float
    """How much lower the candidate's loss is, in nats per completion token."""
    low: float
    high: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """What the gate says of the best candidate, and what it looked at."""

    winner: str
    """The candidate with the lowest loss on the rows that decide."""
    passed: bool
    reasons: tuple[str, ...]
    """Why it did not pass; empty when it did."""
    losses: Mapping[str, float]
    """Loss of each candidate, of the base, and of the champion if there is one."""
    comparisons: tuple[Comparison, ...]
    """Of every candidate, the winner's first."""
    min_gain: float
    confidence: float
    rows: int
    warnings: tuple[str, ...] = ()

    def of(self, candidate: str) -> list[Comparison]:
        """The comparisons of one candidate."""
        return [found for found in self.comparisons if found.candidate == candidate]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON data."""
        return asdict(self) | {"losses": dict(self.losses)}


def decide(
    scores: Mapping[str, Scores], candidates: Sequence[str], min_gain: float, rng: np.random.Generator
) -> Verdict:
    """The verdict on the candidate with the lowest loss.

    It passes when against the base, and against the champion where there is one, its gain is at least `min_gain` and
    the interval of the gain lies above zero.

    Args:
        scores: of the candidates, of `BASE`, and of `CHAMPION` if there is one, on the same rows.
        candidates: names; among equal losses the first one wins.
        min_gain: in nats per completion token.
        rng: draws the resamples.
    """
    losses = {name: found.loss for name, found in scores.items()}
    winner = min(candidates, key=lambda name: losses[name])
    confidence = confidence_of(len(candidates))
    references = [name for name in (BASE, CHAMPION) if name in scores]
    ordered = [winner, *(name for name in candidates if name != winner)]
    comparisons = tuple(
        _compare(name, scores[name], reference, scores[reference], (min_gain, confidence), rng)
        for name in ordered
        for reference in references
    )
    reasons = tuple(
        _reason(found, min_gain, confidence) for found in comparisons if found.candidate == winner and not found.passed
    )
    rows = len(scores[winner].row_losses)
    if rows < LEAST_ROWS:
        reasons = (f"only {rows} rows decide: at least {LEAST_ROWS} are needed", *reasons)
    few = (
        (f"only {rows} rows decide: with fewer than {FEW_ROWS} the interval is too narrow",) if rows < FEW_ROWS else ()
    )
    return Verdict(winner, not reasons, reasons, losses, comparisons, min_gain, confidence, rows, few)


def _compare(
    name: str, scores: Scores, against: str, reference: Scores, rule: tuple[float, float], rng: np.random.Generator
) -> Comparison:
    if scores.row_tokens != reference.row_tokens:
        raise ValueError(f"{name} and {against} were not scored on the same rows")
    min_gain, confidence = rule
    gains = [theirs - ours for ours, theirs in zip(scores.row_losses, reference.row_losses, strict=True)]
    gain = sum(gains) / sum(scores.row_tokens)
    low, high = interval(gains, scores.row_tokens, confidence, rng)
    return Comparison(name, against, gain, low, high, gain >= min_gain and low > 0)


def _reason(found: Comparison, min_gain: float, confidence: float) -> str:
    """Why a comparison did not pass."""
    if found.gain <= 0:
        return f"{found.candidate} is not better than the {found.against}: gain {found.gain:+.4f}"
    if found.gain < min_gain:
        return f"{found.candidate} gains {found.gain:.4f} on the {found.against}, less than min_gain {min_gain:g}"
    span = f"[{found.low:+.4f}, {found.high:+.4f}]"
    return f"{found.candidate}'s gain on the {found.against} may be chance: {confidence:.1%} interval {span} holds zero"


@dataclass(frozen=True)
class Agreement:
    """How far a second evaluation is from the one that a trial reported."""

    difference: float
    """Mean over tokens of the rows' absolute differences, in nats; what is above chance cannot cancel out in it."""
    tolerance: float
    hardware: str
    """Of both evaluations, where they differ."""

    @property
    def holds(self) -> bool:
        """Whether it is the same adapter on the same base and the same rows."""
        return self.difference <= self.tolerance


def agreement(reported: Scores, reported_on: str, found: Scores, found_on: str) -> Agreement:
    """Compares an adapter's scores with those that its trial reported.

    The tolerance is per type of the activations. float32: packed training and plain PEFT agree within 1e-5
    (tests/trainables/packing/test_adapter_pack.py), ten times that is left for other versions of the libraries.
    16-bit types keep 8 to 11 bits, and rows beside others in a pass are rounded otherwise: 0.02. Across devices the
    order of sums differs everywhere: ten times as much in float32, twice as much in 16 bits. Where it is not known
    what a trial was evaluated on, the widest holds.
    """
    if reported.row_tokens != found.row_tokens:
        return Agreement(float("inf"), 0.0, "other rows or tokens")
    gaps = (abs(ours - theirs) for ours, theirs in zip(found.row_losses, reported.row_losses, strict=True))
    difference = sum(gaps) / sum(found.row_tokens)
    words = found_on if reported_on == found_on else f"{reported_on or 'unknown'}, now {found_on}"
    return Agreement(difference, tolerance(reported_on, found_on), words)


def tolerance(reported_on: str, found_on: str) -> float:
    """The largest difference that is no error, in nats per token; see `agreement`."""
    if not reported_on:
        return 0.04
    (device, dtype), (device_now, dtype_now) = reported_on.split(), found_on.split()
    if dtype == dtype_now == "float32":
        return 1e-4 if device == device_now else 1e-3
    return 0.02 if (device, dtype) == (device_now, dtype_now) else 0.04
