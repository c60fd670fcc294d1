"""Decides whether an adapter is better than the base and the champion. Pure: evaluations in, a verdict out.

Each row is compared with itself under both models, so that a hard row weighs on neither side. The gain is the
difference of the metric, with an interval over rows (`statistics.comparison`), where the copies of a row, and the rows
of a group, count as one. The best of k candidates looks better than it is on the rows that chose it, so the interval
has confidence 1 - 0.01 / k: all k intervals hold at once in 99 of 100 promotions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweeps.statistics.comparison import Comparison, Pair, compare
from sweeps.statistics.intervals import FEW_ROWS, LEAST_ROWS, confidence_of, counted_units, unseen
from trainables.contract import Evaluation
from trainables.objective import LOWEST_LOSS, Objective, RowValues, digits
from trainables.scoring.requests import BASE

CHAMPION = "champion"
"""The name under which the present champion is scored."""
DECIDES = LOWEST_LOSS
"""What promotion compares, whatever ranked the candidates: in nats per completion token."""


@dataclass(frozen=True)
class Verdict:
    """The gate's decision on the best candidate, and all that it compared."""

    winner: str
    """The candidate with the best value on the rows that decide."""
    reasons: tuple[str, ...]
    """Why it did not pass; empty when it did."""
    losses: Mapping[str, float]
    """Name of a candidate, BASE or CHAMPION -> its value of the metric."""
    comparisons: Mapping[str, tuple[Comparison, ...]]
    """Candidate, the winner first -> its comparisons, that with the champion last. Each `key` is BASE or CHAMPION, and
    each `difference` the gain on it: how much better the candidate's value is."""
    min_gain: float
    confidence: float
    rows: int
    """Rows that decide, without copies of others, or groups of rows."""
    warnings: tuple[str, ...] = ()
    is_grouped: bool = False
    """Whether rows that belong together count as one."""

    @property
    def passed(self) -> bool:
        """Whether the winner may be promoted."""
        return not self.reasons

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
        return comparison.interval_in_words(self.confidence, self.rows_in_words)

    def passes(self, comparison: Comparison) -> bool:
        """Whether a gain is large enough, and more than chance."""
        is_told = comparison.low is not None and comparison.carried_by != 0
        return is_told and comparison.difference >= self.min_gain and (comparison.low or 0.0) > 0

    def as_json(self) -> dict[str, Any]:
        """Its object in the JSON line."""
        comparisons = [
            {"candidate": name, "against": each.key, "gain": each.difference, "low": each.low, "high": each.high,
             "passed": self.passes(each), "carried_by": each.carried_by}
            for name, of_candidate in self.comparisons.items() for each in of_candidate
        ]  # fmt: skip
        fields = {name: value for name, value in vars(self).items() if name != "comparisons"}
        return {**fields, "passed": self.passed, "comparisons": comparisons}


def decide(
    scores: Mapping[str, Evaluation], candidates: Sequence[str], min_gain: float, objective: Objective = DECIDES
) -> Verdict:
    """Decides on the candidate with the best value.

    It passes when against the base, and against the champion where there is one, its gain is at least `min_gain` and
    the interval of the gain lies above zero.

    Args:
        scores: of the candidates, `BASE` and, if there is one, `CHAMPION`, all on the same rows.
        candidates: their names; of equal values the first one wins.
        min_gain: in the metric's unit.
        objective: the metric that is compared.
    """
    values = {name: objective.of(each.metrics) for name, each in scores.items()}
    winner = min(candidates, key=lambda name: objective.loss(values[name]))
    ordered = [winner, *(name for name in candidates if name != winner)]
    references = [name for name in (BASE, CHAMPION) if name in scores]
    pairs = [_pair(objective, scores[name], against, scores[against]) for name in ordered for against in references]
    confidence = confidence_of(len(candidates))
    found = compare(objective.metric, pairs, confidence)
    each_has = len(references)
    comparisons = {name: found.pairs[place * each_has : (place + 1) * each_has] for place, name in enumerate(ordered)}
    told = Verdict(winner, (), values, comparisons, min_gain, confidence, found.rows, (), found.is_grouped)
    own = comparisons[winner]
    reasons = [why for why in (_reason(told, each) for each in own if not told.passes(each)) if why is not None]
    warnings = [
        f"{winner}'s gain on the {each.key} has the {told.interval_of(each)}: "
        "the interval hangs on how many such rows there are"
        for each in own
        if each.carried_by
    ]
    rows = scores[winner].rows_of(objective.metric) or RowValues((), ())
    is_copied = len(rows.parts) > found.rows and not found.is_grouped
    only = f"only {told.rows_in_words} decide" + (f" ({len(rows.parts)} with copies)" if is_copied else "")
    if found.rows < LEAST_ROWS:
        reasons.insert(0, f"{only}: at least {LEAST_ROWS} are needed")
    if found.rows < FEW_ROWS:
        warnings.insert(0, f"{only}: with fewer than {FEW_ROWS} the interval may be too narrow")
    return replace(told, reasons=tuple(reasons), warnings=tuple(warnings))


def _pair(objective: Objective, candidate: Evaluation, against: str, reference: Evaluation) -> Pair:
    """The two so that their difference is the candidate's gain."""
    gain = objective.gain(objective.of(reference.metrics), objective.of(candidate.metrics))
    lower, higher = (candidate, reference) if objective.mode == "min" else (reference, candidate)
    return Pair(against, gain, higher, lower)


def _reason(verdict: Verdict, comparison: Comparison) -> str | None:
    """Says why a comparison of the winner did not pass; None where rows are too few to tell."""
    candidate, against, gain = verdict.winner, comparison.key, comparison.difference
    if gain <= 0:
        return f"{candidate} is not better than the {against}: gain {digits(gain, '+')}"
    if gain < verdict.min_gain:
        return f"{candidate} gains {digits(gain)} on the {against}, less than min_gain {verdict.min_gain:g}"
    if comparison.apart is None:
        few = verdict.rows < LEAST_ROWS
        return None if few else f"{candidate}'s gain on the {against} may be chance: {comparison.unknown}"
    if comparison.carried_by == 0:
        return f"{candidate}'s gain on the {against} has the {verdict.interval_of(comparison)}: chance cannot be told"
    return f"{candidate}'s gain on the {against} may be chance: {verdict.interval_of(comparison)}"


@dataclass(frozen=True)
class Agreement:
    """Says how far a second evaluation is from the one that a trial reported."""

    difference: float
    """Sum of the rows' absolute differences per token, in nats. Absolute, so that rows cannot cancel each other."""
    tolerance: float
    hardware: str
    """What the second evaluation ran on; what both ran on where these differ."""

    @property
    def holds(self) -> bool:
        """Whether it is the same adapter on the same base and the same rows."""
        return self.difference <= self.tolerance


def agreement(reported: Evaluation, now: Evaluation) -> Agreement:
    """Compares an adapter's losses with those that its trial reported.

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
    before, after = reported.hardware, now.hardware
    words = after if before == after else f"{before or 'unknown'}, now {after}"
    return Agreement(difference, tolerance(before, after), words)


def tolerance(reported_on: str, now_on: str) -> float:
    """The largest difference per token, in nats, that is no error; see `agreement`."""
    if not reported_on:
        return 0.04
    (device, dtype), (device_now, dtype_now) = reported_on.split(), now_on.split()
    if dtype == dtype_now == "float32":
        return 1e-4 if device == device_now else 1e-3
    return 0.02 if (device, dtype) == (device_now, dtype_now) else 0.04
