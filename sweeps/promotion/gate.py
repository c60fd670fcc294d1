"""Decides whether an adapter is better than the base and the champion. Pure: evaluations in, a verdict out.

Each row is compared with itself under both models, so that a hard row weighs on neither side. The gain is the
difference of the metric, with an interval over rows (`statistics.comparison`), where the copies of a row, and the rows
of a group, count as one; scores of 0 and 1 have an exact test (`statistics.exact`). The best of k candidates looks
better than it is on the rows that chose it, so the interval has confidence 1 - 0.01 / k: all k intervals hold at once
in 99 of 100 promotions.

There are three verdicts. Better: the gain is at least min_gain, and the rows show that it is above 0. Not better: the
rows show that it is below min_gain, or, where that is 0, that it is not above 0; or that a limit is broken (`limits`).
Anything else cannot be told from these rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sweeps.promotion import limits
from sweeps.promotion.limits import Guarded, Limit, Sliced, all_of, more_rows, rows_in_words, worst
from sweeps.statistics.comparison import Comparison, Pair, compare
from sweeps.statistics.intervals import FEW_ROWS, LEAST_ROWS, confidence_of, counted_units, unseen
from trainables.contract import Evaluation
from trainables.objective import LOWEST_LOSS, Objective, RowValues, digits
from trainables.scoring.requests import BASE

CHAMPION = "champion"
"""The name under which the present champion is scored."""
Outcome = Literal["better", "not_better", "cannot_tell"]
OUTCOMES: Mapping[bool | None, Outcome] = {True: "better", False: "not_better", None: "cannot_tell"}
"""The verdict by whether something is told to be better."""


@dataclass(frozen=True)
class Verdict:
    """The gate's decision on the best candidate, and all that it compared."""

    winner: str
    """The candidate with the best value on the rows that decide; of equal values that with the lowest loss."""
    objective: Objective
    """The metric that decides."""
    losses: Mapping[str, float]
    """Name of a candidate, BASE or CHAMPION -> its `eval_loss`."""
    values: Mapping[str, float]
    """The same -> its value of the metric."""
    comparisons: Mapping[str, tuple[Comparison, ...]]
    """Candidate, the winner first -> its comparisons, that with the champion last. Each `key` is BASE or CHAMPION, and
    each `difference` the gain on it: how much better the candidate's value is."""
    min_gain: float
    """In the metric's unit."""
    confidence: float
    rows: int
    """Rows that decide, without copies of others, or groups of rows."""
    warnings: tuple[str, ...] = ()
    is_grouped: bool = False
    """Whether rows that belong together count as one."""
    rows_with_copies: int = 0
    guards: tuple[Limit, ...] = ()
    slices: tuple[Limit, ...] = ()
    """What the winner must not make worse."""

    @property
    def outcome(self) -> Outcome:
        """The verdict."""
        told = all_of([self._is_better, *(each.holds for each in (*self.guards, *self.slices))])
        return OUTCOMES[told]

    @property
    def passed(self) -> bool:
        """Whether the winner may be promoted."""
        return self.outcome == "better"

    @property
    def _is_better(self) -> bool | None:
        """What the metric says of the winner, without limits."""
        return all_of(self.told(each) for each in self.comparisons[self.winner])

    def told(self, comparison: Comparison) -> bool | None:
        """Whether a gain is above 0 and large enough; None where that cannot be told."""
        if self._is_enough(comparison) and comparison.above(0.0):
            return True
        return False if comparison.above(self.min_gain) is False else None

    def _is_enough(self, comparison: Comparison) -> bool:
        """Whether a gain is as large as min_gain, beside rounding: 0.3 - 0.2 is less than 0.1."""
        return comparison.difference >= self.min_gain - 1e-9

    @property
    def decided_by(self) -> Limit | None:
        """The limit for which the winner does not pass; None where it passes, or the metric itself decided."""
        left = worst(each for each in (*self.guards, *self.slices) if each.holds is not True)
        is_broken = left is not None and left.holds is False
        return left if self._is_better or (self._is_better is None and is_broken) else None

    @property
    def shown_limits(self) -> tuple[Limit, ...]:
        """The guards and the worst slice."""
        least = worst(self.slices)
        return self.guards if least is None else (*self.guards, least)

    @property
    def rows_needed(self) -> int | None:
        """About how many more rows would tell; None where no number of them would, or these do.

        Rows of the limit, where one decided.
        """
        if self.outcome != "cannot_tell":
            return None
        if self.decided_by is not None:
            return self.decided_by.rows_needed
        untold = [each for each in self.comparisons[self.winner] if self.told(each) is None]
        bounds = ((each, 0.0 if self._is_enough(each) else self.min_gain) for each in untold)
        return more_rows(bounds, self.rows)

    @property
    def words(self) -> str:
        """The verdict for people: "better", "cannot be told yet: about 120 more rows would tell"."""
        limit = self.decided_by
        of = "" if limit is None else f" ({limit.name})"
        if self.outcome != "cannot_tell":
            return f"{'better' if self.passed else 'not better'}{of}"
        more = rows_in_words(self.rows_needed, self.is_grouped if limit is None else limit.is_grouped)
        return f"cannot be told{' yet' if self.rows_needed else ''}: {more}{of}"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the winner did not pass; empty when it did."""
        if self.decided_by is not None:
            return (self.decided_by.reason(self.winner),)
        own = sorted(self.comparisons[self.winner], key=lambda each: self.told(each) is None)
        found = [self._reason(each) for each in own if self.told(each) is not True]
        few = [f"{self.only}: at least {LEAST_ROWS} are needed"] if self.rows < LEAST_ROWS else []
        return (*few, *(why for why in found if why is not None))

    def _reason(self, gain: Comparison) -> str | None:
        """Says why a gain of the winner did not pass; None where rows are too few to tell."""
        winner, least, amount = self.winner, self.min_gain, f"gain {digits(gain.difference, '+')}"
        whether = f"whether {winner} is better than the {gain.key} cannot be told"
        if gain.low is None:
            return None if self.rows < LEAST_ROWS else f"{whether}: {gain.unknown}"
        told = f"{amount}, {self.evidence_of(gain)}"
        if self.told(gain) is None and gain.difference > 0 and self._is_enough(gain):
            return f"{winner}'s gain on the {gain.key} may be chance: {told}"
        if gain.difference > 0 and least:
            known = "" if self.told(gain) is False else ", which may be chance"
            return f"{winner} gains less than min_gain {least:g} on the {gain.key}{known}: {told}"
        return (
            f"{whether}: {told}" if self.told(gain) is None else f"{winner} is not better than the {gain.key}: {told}"
        )

    @property
    def only(self) -> str:
        """Says that rows are few."""
        is_copied = self.rows_with_copies > self.rows and not self.is_grouped
        return f"only {self.rows_in_words} decide" + (f" ({self.rows_with_copies} with copies)" if is_copied else "")

    @property
    def rows_in_words(self) -> str:
        """The rows that decide: "80 rows", "16 groups of rows"."""
        return counted_units(self.rows, self.is_grouped)

    @property
    def unseen(self) -> str:
        """What these rows cannot exclude."""
        return unseen(self.rows, self.is_grouped)

    def evidence_of(self, gain: Comparison) -> str:
        """The interval of a gain in words, with its confidence and the rows, and the exact test where there is one."""
        return gain.evidence_in_words(self.confidence, self.rows_in_words)

    def as_json(self) -> dict[str, Any]:
        """Its object in the JSON line."""
        comparisons = [
            {"candidate": name, "against": each.key, "gain": each.difference, "low": each.low, "high": each.high,
             "passed": self.told(each) is True, "verdict": OUTCOMES[self.told(each)], "carried_by": each.carried_by}
            for name, of_candidate in self.comparisons.items() for each in of_candidate
        ]  # fmt: skip
        said = {"verdict": self.outcome, "rows_needed": self.rows_needed, "reasons": self.reasons}
        limits = {name: [each.as_json() for each in getattr(self, name)] for name in ("guards", "slices")}
        by = None if self.decided_by is None else self.decided_by.name
        more = {"passed": self.passed, "decided_by": by, "comparisons": comparisons, **limits}
        return {**vars(self), "objective": self.objective.model_dump(), **said, **more}


def decide(
    scores: Mapping[str, Evaluation],
    candidates: Sequence[str],
    min_gain: float,
    objective: Objective = LOWEST_LOSS,
    sliced: Sliced | None = None,
    guarded: Sequence[Guarded] = (),
) -> Verdict:
    """Decides on the candidate with the best value.

    Args:
        scores: of the candidates, `BASE` and, if there is one, `CHAMPION`, all on the same rows.
        candidates: their names; of equal ones (`Objective.standing`) the first one wins.
        min_gain: in the metric's unit.
        objective: the metric that is compared.
        sliced: divides the rows into slices; None for no slices.
        guarded: the evaluations of the winner and the references under guards.
    """
    values = {name: objective.of(each.metrics) for name, each in scores.items()}
    winner = min(candidates, key=lambda name: objective.standing(scores[name].metrics))
    ordered = [winner, *(name for name in candidates if name != winner)]
    references = [name for name in (BASE, CHAMPION) if name in scores]
    pairs = [
        Pair.of_gain(objective, against, scores[against], scores[name]) for name in ordered for against in references
    ]
    confidence = confidence_of(len(candidates))
    found = compare(objective, pairs, confidence)
    each_has = len(references)
    told = Verdict(
        winner=winner,
        objective=objective,
        losses={name: each.loss for name, each in scores.items()},
        values=values,
        comparisons={
            name: found.pairs[place * each_has : (place + 1) * each_has] for place, name in enumerate(ordered)
        },
        min_gain=min_gain,
        confidence=confidence,
        rows=found.rows,
        is_grouped=found.is_grouped,
        rows_with_copies=len((scores[winner].rows_of(objective.metric) or RowValues((), ())).parts),
    )
    few = [f"{told.only}: with fewer than {FEW_ROWS} the interval may be too narrow"] if found.rows < FEW_ROWS else []
    warnings = [
        f"{winner}'s gain on the {each.key} has the {told.evidence_of(each)}: "
        "the interval hangs on how many such rows there are"
        for each in told.comparisons[winner]
        if each.carried_by and each.exact is None
    ]
    slices: tuple[Limit, ...] = ()
    if sliced is not None:
        against = {name: scores[name] for name in references}
        slices = limits.slices(sliced, objective, scores[winner], against, len(candidates))
    guards = limits.guards(guarded, winner, len(candidates))
    return replace(told, warnings=(*few, *warnings), slices=slices, guards=guards)


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
