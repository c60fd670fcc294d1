"""Decides whether an adapter is better than the base and the champion. Pure: evaluations in, a verdict out.

Each row is compared with itself under both models, so that a hard row weighs on neither side. The gain is the
difference of the metric, with an interval over rows (`statistics.comparison`). Copies of a row count as one row, and so
do the rows of a group. Scores of 0 and 1 have an exact test (`statistics.exact`). The best of k adapters looks better
than it is on the rows that chose it, so each interval has confidence 1 - 0.01 / k: all k intervals hold at once in 99
of 100 promotions. On fresh rows k counts the candidates; on rows that ranked the trials of the sweep, all these trials.

There are three verdicts. Better: the gain is at least min_gain, and the rows show that the gain is above 0. Not better:
the rows show that the gain is below min_gain, or, if min_gain is 0, that the gain is not above 0. Cannot tell: the rows
show neither. A limit, under a guard or on a slice of the rows, holds if the rows show that the gain is above -worse_by.
A few rows thus do not pass a bad adapter, and the verdict says how many more rows are needed. A score that does not
decide stops the winner only if the rows show that the winner is worse.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from sweeps.config.model import Slices
from sweeps.statistics.comparison import Comparison, Pair, compare
from sweeps.statistics.confidence import confidence_of
from trainables.contract import Evaluation
from trainables.inputs.legible import legible
from trainables.objective import EVAL_LOSS, LEAST_ROWS, Objective
from trainables.scoring.requests import BASE
from trainables.specs import Spec

CHAMPION = "champion"
"""Name of the present champion among the scores."""
Outcome = Literal["better", "not_better", "cannot_tell"]
METHOD = 2
"""Raise this number when the same values give another interval or verdict. 2: intervals with one further unit."""
OUTCOMES: Mapping[bool | None, Outcome] = {True: "better", False: "not_better", None: "cannot_tell"}
"""Whether all gains are large enough (None: undecided) -> the verdict."""


@dataclass(frozen=True)
class Standing:
    """Comparison of one candidate with the base and the champion, on some rows and by one metric."""

    name: str
    """Name of the candidate; for a limit "guard general.jsonl" or "slice language=de"; for a score its metric."""
    objective: Objective
    least: float | None
    """Required gain: min_gain, -worse_by for a limit, 0 for a score; None for a slice without a limit."""
    value: float
    gains: tuple[Comparison, ...]
    """Gains over the base, and last over the champion if there is one. Each `key` is BASE or CHAMPION."""
    confidence: float
    rows: int
    """Number of rows without copies, or of groups of rows."""
    is_grouped: bool

    def is_large_enough(self, gain: Comparison) -> bool | None:
        """Tells whether a gain is large enough, beyond chance on these rows; None if undecided."""
        return True if self.least is None else gain.above(self.bound(gain))

    def is_enough(self, gain: Comparison) -> bool:
        """Tells whether a gain reaches `least`, apart from rounding: 0.3 - 0.2 is less than 0.1."""
        return self.least is None or gain.difference >= self.least - 1e-9

    def bound(self, gain: Comparison) -> float:
        """Returns the value that the gain must exceed beyond chance: `least`, or 0 for a gain that reaches min_gain."""
        least = self.least or 0.0
        return min(least, 0.0) if self.is_enough(gain) else least

    @property
    def holds(self) -> bool | None:
        """Tells whether each gain is large enough; None if undecided."""
        return _all_of(map(self.is_large_enough, self.gains))

    @property
    def lowest(self) -> float:
        """Returns the lowest gain."""
        return min(each.difference for each in self.gains)

    @property
    def rows_needed(self) -> int | None:
        """Estimates how many more rows would decide; None if no number of rows would, or if these rows do."""
        untold = [each for each in self.gains if self.is_large_enough(each) is None]
        if untold and self.rows < LEAST_ROWS:
            return LEAST_ROWS - self.rows
        needed = [each.rows_needed(self.rows, self.bound(each)) for each in untold]
        counts = [count - self.rows for count in needed if count is not None]
        return max(1, *counts) if counts and len(counts) == len(needed) else None


@dataclass(frozen=True)
class Verdict:
    """The gate's decision on the best candidate, with all comparisons behind it."""

    candidates: tuple[Standing, ...]
    """All candidates, the winner first: the best by the deciding metric, and of equal ones the best by loss."""
    scores: Mapping[str, Evaluation]
    """Name of a candidate, BASE or CHAMPION -> its evaluation."""
    rule: GateRule
    rows_with_copies: int = 0
    guards: tuple[Standing, ...] = ()
    slices: tuple[Standing, ...] = ()
    """`guards` and `slices` hold the winner's standing under each limit."""
    beside: tuple[Standing, ...] = ()
    """The winner's standing by each of `GateRule.beside`."""
    warnings: tuple[str, ...] = ()
    """For people: they decide nothing, and the gate gives none."""

    @property
    def best(self) -> Standing:
        """Returns the winner's standing on the deciding rows."""
        return self.candidates[0]

    @property
    def winner(self) -> str:
        """Returns the winner's name."""
        return self.best.name

    @property
    def objective(self) -> Objective:
        """Returns the deciding metric."""
        return self.best.objective

    @property
    def losses(self) -> dict[str, float]:
        """Returns name in `scores` -> `eval_loss`."""
        return {name: each.loss for name, each in self.scores.items()}

    @property
    def values(self) -> dict[str, float]:
        """Returns name in `scores` -> value of the deciding metric."""
        return {name: self.objective.of(each.metrics) for name, each in self.scores.items()}

    @property
    def outcome(self) -> Outcome:
        """Returns the verdict over the gain and the limits."""
        return OUTCOMES[_all_of(each.holds for each in (self.best, *self._limits))]

    @property
    def passed(self) -> bool:
        """Tells whether the winner may be promoted."""
        return self.outcome == "better"

    @property
    def decided_by(self) -> Standing | None:
        """Returns the limit that stops the winner; None if the winner passes, or if the gain itself decided."""
        left = _worst(each for each in self._limits if each.holds is not True)
        is_broken = left is not None and left.holds is False
        return left if self.best.holds or (self.best.holds is None and is_broken) else None

    @property
    def shown_limits(self) -> tuple[Standing, ...]:
        """Returns the guards, the scores by which the winner is worse beyond chance, and the worst slice."""
        worst = _worst(self.slices)
        return (*self.guards, *self._worse, *(() if worst is None else (worst,)))

    @property
    def _limits(self) -> tuple[Standing, ...]:
        return (*self.guards, *self.slices, *self._worse)

    @property
    def _worse(self) -> tuple[Standing, ...]:
        return tuple(each for each in self.beside if each.holds is False and self.rule.scores_limit)

    @property
    def rows_needed(self) -> int | None:
        """Estimates how many more rows would decide; None if no number of rows would, or if these rows do."""
        return (self.decided_by or self.best).rows_needed if self.outcome == "cannot_tell" else None


class GateRule(Spec):
    """The rule by which the gate decides."""

    objective: Objective
    min_gain: float
    """In the metric's unit."""
    candidates: Annotated[tuple[str, ...], Field(strict=False)]
    """Labels of the candidates; the winner is the best of them."""
    left_out: int = 0
    """Number of further candidates, which the rows of the sweep show to be worse than the best one."""
    ranked: int = 0
    """Number of trials that the sweep ranked on the deciding rows, the candidates among them; 0 for fresh rows."""
    beside: Annotated[tuple[Objective, ...], Field(strict=False)] = ()
    """Scores that do not decide. The winner must not be worse by any of them beyond chance."""
    scores_limit: bool = True
    """Whether a worse score of `beside` refuses the winner. Where a person named the metric, it is only told."""
    method: int = 1
    """`METHOD` of the version of qsweep that decided."""

    @property
    def comparisons(self) -> int:
        """Returns the number of adapters of which the winner is the best."""
        return max(self.ranked, self.tried)

    @property
    def tried(self) -> int:
        """Returns the number of candidates, with those that were left out."""
        return len(self.candidates) + self.left_out


class Guarded(Spec):
    """Evaluations on the rows of a guard."""

    name: str
    """As `Standing.name`."""
    objective: Objective
    worse_by: float
    scores: Mapping[str, Evaluation]
    """Name of the winner, BASE or CHAMPION -> its evaluation."""


class Sliced(Spec):
    """Division of the deciding rows into slices."""

    of: Slices
    values: Annotated[tuple[str, ...], Field(strict=False)]
    """Value of the column on each row."""


def decide(
    scores: Mapping[str, Evaluation], rule: GateRule, sliced: Sliced | None = None, guarded: Sequence[Guarded] = ()
) -> Verdict:
    """Decides on the candidate with the best value. Of equally good ones (`Objective.standing`) the first one wins.

    Args:
        scores: evaluations of the candidates, `BASE` and, if there is one, `CHAMPION`, all on the same rows.
    """
    candidates, objective, count = rule.candidates, rule.objective, rule.comparisons
    winner = min(candidates, key=lambda name: objective.sort_key(scores[name].metrics))
    best_first = sorted(candidates, key=lambda name: name != winner)
    values = scores[winner].rows_of(objective.metric)

    def under(guard: Guarded) -> Standing:
        # All intervals of all guards must hold at once. Rows of their own have not ranked the trials.
        own = count if guard.scores[BASE].row_losses == scores[BASE].row_losses else rule.tried
        confidence = confidence_of(own * len(guarded))
        return _standing(guard.name, winner, guard.scores, guard.objective, -guard.worse_by, confidence)

    return Verdict(
        tuple(_standing(each, each, scores, objective, rule.min_gain, confidence_of(count)) for each in best_first),
        scores,
        rule,
        rows_with_copies=0 if values is None else len(values.parts),
        guards=tuple(map(under, guarded)),
        slices=() if sliced is None else slices(sliced, objective, scores, winner, count),
        beside=_beside(scores, rule.beside, winner),
    )


def _beside(scores: Mapping[str, Evaluation], beside: Sequence[Objective], winner: str) -> tuple[Standing, ...]:
    """Compares the winner with the base and the champion by the scores that do not decide.

    Half of an interval's errors are on one side, and base and champion can each stop the winner: in 99 of 100
    promotions no score stops one that is as good. The trials do not count, because another metric chose the winner.
    """
    compared = [scores[name] for name in (winner, BASE, CHAMPION) if name in scores]
    there = [each for each in beside if all(of.rows_of(each.metric) for of in compared)]
    confidence = confidence_of(max(1, len(there)))
    return tuple(_standing(each.metric, winner, scores, each, 0.0, confidence) for each in there)


def _standing(
    name: str, own: str, scores: Mapping[str, Evaluation], objective: Objective, least: float | None, confidence: float
) -> Standing:
    """Compares the adapter `own` with the base and the champion, all on the same rows."""
    pairs = [Pair.of_gain(objective, key, scores[key], scores[own]) for key in (BASE, CHAMPION) if key in scores]
    gains, rows, is_grouped = compare(objective, pairs, confidence)
    return Standing(name, objective, least, objective.of(scores[own].metrics), gains, confidence, rows, is_grouped)


def slices(
    sliced: Sliced, objective: Objective, scores: Mapping[str, Evaluation], winner: str, count: int
) -> tuple[Standing, ...]:
    """Compares the winner with the base and the champion on each slice of the deciding rows.

    All intervals of all slices hold at once, although the winner is the best of `count` adapters on all rows.
    """
    places: dict[str, set[int]] = {}
    for place in scores[winner].places_of(objective.metric):
        places.setdefault(sliced.values[place], set()).add(place)
    confidence = confidence_of(count * len(places))
    names = [name for name in (winner, BASE, CHAMPION) if name in scores]
    least = None if sliced.of.worse_by is None else -sliced.of.worse_by
    found = []
    for value, its in places.items():
        own = {each: part(scores[each], objective.metric, its) for each in names}
        name = f"slice {sliced.of.by}={legible(value, 60)}"
        found.append(_standing(name, winner, own, objective, least, confidence))
    return tuple(found)


_OF_ROWS = ("row_losses", "row_tokens", "row_bytes", "row_groups")
"""Fields of an evaluation that hold one value per row."""


def part(evaluation: Evaluation, metric: str, places: Collection[int]) -> Evaluation:
    """Returns the evaluation of the rows at `places` alone. Drops rows without a value of the metric."""
    values = evaluation.rows_of(metric)
    assert values is not None, "places_of found rows"
    kept = {place: number for number, place in enumerate(evaluation.places_of(metric)) if place in places}
    own = tuple(values.parts[number] for number in kept.values())
    metrics = evaluation.metrics | {metric: sum(own) / sum(values.weights[number] for number in kept.values())}
    rows = {name: tuple(all_R[place] for place in kept) for name in _OF_ROWS if (all_R := getattr(evaluation, name))}
    told = {"metrics": metrics, "row_values": {} if metric == EVAL_LOSS else {metric: own}, "row_places": ()}
    return evaluation.model_copy(update=told | rows)


def _worst(limits: Iterable[Standing]) -> Standing | None:
    """Returns the limit that matters most: a broken one, else an undecided one, else one that holds.

    Among these, limits with an interval come first, and then the lowest gain decides.
    """
    rank = {False: 0, None: 1, True: 2}
    return min(limits, key=lambda each: (rank[each.holds], each.rows < LEAST_ROWS, each.lowest), default=None)


def _all_of(told: Iterable[bool | None]) -> bool | None:
    """Returns False if one is False, else None if one is None, else True."""
    found = set(told)
    return False if False in found else None if None in found else True
