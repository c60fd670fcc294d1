"""Decides whether an adapter is better than the base and the champion. Pure: losses in, a verdict out.

Each row is compared with itself under both models, so that a hard row weighs on neither side. The gain is the
difference of the losses per completion token (sum of negative log-likelihoods / sum of tokens), with an interval over
rows (`paired_rows`), where the copies of a row, and the rows of a group, count as one. The best of k candidates looks
better than it is on the rows that chose it, so the interval has confidence 1 - 0.01 / k: all k intervals hold at once
in 99 of 100 promotions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sweeps.statistics.intervals import (
    FEW_ROWS,
    LEAST_ROWS,
    confidence_of,
    counted_units,
    in_words,
    intervals,
    units_of,
    unseen,
)
from trainables.objective import digits
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
    carried_by: int | None = None
    """As `paired_rows.Interval.carried_by`."""


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
    """Rows that decide, without copies of others, or groups of rows."""
    warnings: tuple[str, ...] = ()
    is_grouped: bool = False
    """Whether rows that belong together count as one."""

    @property
    def rows_in_words(self) -> str:
        """The rows that decide: "80 rows", "16 groups of rows"."""
        return counted_units(self.rows, self.is_grouped)

    @property
    def unseen(self) -> str:
        """What these rows cannot exclude."""
        return unseen(self.rows, self.is_grouped)

    def interval_of(self, comparison: Comparison) -> str:
        """The interval of a gain in words, with its confidence and the rows."""
        return in_words((comparison.low, comparison.high), self.confidence, self.rows_in_words, comparison.carried_by)

    def of(self, candidate: str) -> list[Comparison]:
        """The comparisons of one candidate, that with the champion last."""
        return [comparison for comparison in self.comparisons if comparison.candidate == candidate]


def decide(
    scores: Mapping[str, Scores], candidates: Sequence[str], min_gain: float, groups: Sequence[int] = ()
) -> Verdict:
    """Decides on the candidate with the lowest loss.

    It passes when against the base, and against the champion where there is one, its gain is at least `min_gain` and
    the interval of the gain lies above zero.

    Args:
        scores: of the candidates, `BASE` and, if there is one, `CHAMPION`, all on the same rows.
        candidates: their names; of equal losses the first one wins.
        min_gain: in nats per completion token.
        groups: number of the group of each row; empty where each row stands alone.
    """
    first, tokens = next(iter(scores)), next(iter(scores.values())).row_tokens
    for name, each in scores.items():
        if each.row_tokens != tokens:
            raise ValueError(f"{name} and {first} were not scored on the same rows")
    units = units_of(tokens, [each.row_losses for each in scores.values()], groups)
    losses = {name: each.loss for name, each in scores.items()}
    winner = min(candidates, key=lambda name: losses[name])
    confidence = confidence_of(len(candidates))
    ordered = [winner, *(name for name in candidates if name != winner)]
    pairs = [(name, reference) for name in ordered for reference in (BASE, CHAMPION) if reference in scores]
    gains = np.stack([np.subtract(scores[theirs].row_losses, scores[ours].row_losses) for ours, theirs in pairs])
    comparisons = []
    for (name, against), row_gains, span in zip(pairs, gains, intervals(gains, tokens, confidence, units), strict=True):
        gain = float(row_gains.sum()) / sum(tokens)
        passed = gain >= min_gain and span.low > 0
        comparisons.append(Comparison(name, against, gain, span.low, span.high, passed, span.carried_by))
    own, rows = [each for each in comparisons if each.candidate == winner], max(units) + 1
    told = Verdict(winner, True, (), losses, tuple(comparisons), min_gain, confidence, rows, is_grouped=bool(groups))
    reasons = [_reason(each, told) for each in own if not each.passed]
    warnings = [
        f"{winner}'s gain on the {each.against} has the {told.interval_of(each)}: "
        + ("chance cannot be told" if each.carried_by == 0 else "the interval hangs on how many such rows there are")
        for each in own
        if each.carried_by is not None
    ]
    copies = f" ({len(tokens)} with copies)" if len(tokens) > rows and not groups else ""
    only = f"only {told.rows_in_words} decide{copies}"
    if rows < LEAST_ROWS:
        reasons.insert(0, f"{only}: at least {LEAST_ROWS} are needed")
    if rows < FEW_ROWS:
        warnings.insert(0, f"{only}: with fewer than {FEW_ROWS} the interval may be too narrow")
    return replace(told, passed=not reasons, reasons=tuple(reasons), warnings=tuple(warnings))


def _reason(comparison: Comparison, verdict: Verdict) -> str:
    """Says why a comparison did not pass."""
    candidate, against, gain = comparison.candidate, comparison.against, comparison.gain
    if gain <= 0:
        return f"{candidate} is not better than the {against}: gain {digits(gain, '+')}"
    if gain < verdict.min_gain:
        return f"{candidate} gains {digits(gain)} on the {against}, less than min_gain {verdict.min_gain:g}"
    return f"{candidate}'s gain on the {against} may be chance: {verdict.interval_of(comparison)}"


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
