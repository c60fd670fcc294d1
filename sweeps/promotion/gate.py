"""Decides whether an adapter is better than the base and the champion. Pure: evaluations in, a verdict out.

Each row is compared with itself under both models, so that a hard row weighs on neither side. The gain is the
difference of the metric, with an interval over rows (`statistics.comparison`), where the copies of a row, and the rows
of a group, count as one; scores of 0 and 1 have an exact test (`statistics.exact`). The best of k candidates looks
better than it is on the rows that chose it, so the interval has confidence 1 - 0.01 / k: all k intervals hold at once
in 99 of 100 promotions.

There are three verdicts. Better: the gain is at least min_gain, and the rows show that it is above 0. Not better: the
rows show that it is below min_gain, or, where that is 0, that it is not above 0. Anything else cannot be told from
these rows. A limit, under a guard or on a slice of the rows, is asked whether the gain is above -worse_by: so few rows
do not pass a bad adapter, and the verdict says how many more are needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from sweeps.config.model import Slices
from sweeps.statistics.comparison import Comparison, Pair, compare
from sweeps.statistics.intervals import FEW_ROWS, LEAST_ROWS, confidence_of, counted_units, unseen
from trainables.contract import Evaluation
from trainables.inputs.legible import legible
from trainables.objective import EVAL_LOSS, LOWEST_LOSS, Objective, digits
from trainables.scoring.requests import BASE
from trainables.specs import Spec

CHAMPION = "champion"
"""The name under which the present champion is scored."""
Outcome = Literal["better", "not_better", "cannot_tell"]
OUTCOMES: Mapping[bool | None, Outcome] = {True: "better", False: "not_better", None: "cannot_tell"}
"""The verdict by whether something is told to be better."""


@dataclass(frozen=True)
class Standing:
    """How one candidate stands against the base and the champion on some rows, by one metric."""

    name: str
    """The candidate's; of a limit "guard general.jsonl" or "slice language=de"."""
    objective: Objective
    """The metric that is compared."""
    least: float | None
    """The gain that is asked for: min_gain, or -worse_by of a limit; None of a slice that is only shown."""
    value: float
    """The candidate's value of the metric."""
    gains: tuple[Comparison, ...]
    """On the base, and last on the champion where there is one. Each `key` is BASE or CHAMPION, and each `difference`
    how much better the candidate's value is."""
    confidence: float
    rows: int
    """Without copies of others, or groups of rows."""
    is_grouped: bool
    """Whether rows that belong together count as one."""

    def told(self, gain: Comparison) -> bool | None:
        """Whether a gain is as large as it is to be, beyond chance on these rows; None where that cannot be told."""
        return True if self.least is None else gain.above(self._bound(gain))

    def is_enough(self, gain: Comparison) -> bool:
        """Whether a gain is as large as it is to be, beside rounding: 0.3 - 0.2 is less than 0.1."""
        return self.least is None or gain.difference >= self.least - 1e-9

    def _bound(self, gain: Comparison) -> float:
        """What rows have to show that the gain is above: 0 where it is as large as min_gain."""
        least = self.least or 0.0
        return min(least, 0.0) if self.is_enough(gain) else least

    @property
    def holds(self) -> bool | None:
        """Whether each gain is as large as it is to be; None where that cannot be told."""
        return _all_of(map(self.told, self.gains))

    @property
    def lowest(self) -> float:
        """The lower of the gains."""
        return min(each.difference for each in self.gains)

    @property
    def rows_needed(self) -> int | None:
        """About how many more rows would tell; None where no number of them would, or these do."""
        untold = [each for each in self.gains if self.told(each) is None]
        if untold and self.rows < LEAST_ROWS:
            return LEAST_ROWS - self.rows
        needed = [each.rows_needed(self.rows, self._bound(each)) for each in untold]
        counts = [count - self.rows for count in needed if count is not None]
        return max(1, *counts) if counts and len(counts) == len(needed) else None

    @property
    def needed_in_words(self) -> str:
        """What would tell, in words: "about 120 more rows would tell"."""
        if (needed := self.rows_needed) is None:
            return "more rows like these would not tell"
        return f"about {needed} more {'group' if self.is_grouped else 'row'}{'' if needed == 1 else 's'} would tell"

    @property
    def rows_in_words(self) -> str:
        """The rows: "80 rows", "16 groups of rows"."""
        return counted_units(self.rows, self.is_grouped)

    @property
    def words(self) -> str:
        """What a limit is: "slice language=de (exact_match, 12 rows)"."""
        return f"{self.name} ({self.objective.metric}, {self.rows_in_words})"

    def evidence_of(self, gain: Comparison) -> str:
        """The interval of a gain in words, with its confidence and the rows, and the exact test where there is one."""
        return gain.evidence_in_words(self.confidence, self.rows_in_words)

    def gains_json(self, told_as: str) -> list[dict[str, Any]]:
        """The gains in the JSON line, each with what is told of it under this name."""
        return [
            {"against": each.key, "gain": each.difference, "low": each.low, "high": each.high, told_as: self.told(each)}
            for each in self.gains
        ]

    def limit_json(self) -> dict[str, Any]:
        """The object of a limit in the JSON line."""
        fields = {name: getattr(self, name) for name in ("name", "value", "rows", "holds", "rows_needed", "confidence")}
        worse_by = None if self.least is None else -self.least
        return {**fields, "worse_by": worse_by, "metric": self.objective.metric, "gains": self.gains_json("holds")}

    def reason(self, winner: str) -> str:
        """Why a limit does not hold for the winner, or that it cannot be told."""
        which = next(each for each in self.gains if self.told(each) is self.holds)
        told = f"by more than worse_by {-(self.least or 0.0):g}: {self._amount(which)}"
        may_be, more = ("is", "") if self.holds is False else ("may be", f"; {self.needed_in_words}")
        return f"{winner} {may_be} worse than the {which.key} on {self.words} {told}{more}"

    def reasons(self) -> list[str]:
        """Why a candidate is not better, those that are told first."""
        open_last = sorted(self.gains, key=lambda each: self.told(each) is None)
        found = [self._reason(each) for each in open_last if self.told(each) is not True]
        return [why for why in found if why is not None]

    def _reason(self, gain: Comparison) -> str | None:
        """Says why a gain does not pass; None where rows are too few to tell."""
        name, least, is_open = self.name, self.least or 0.0, self.told(gain) is None
        whether = f"whether {name} is better than the {gain.key} cannot be told"
        if gain.low is None:
            return None if self.rows < LEAST_ROWS else f"{whether}: {gain.unknown}"
        if is_open and gain.difference > 0 and self.is_enough(gain):
            return f"{name}'s gain on the {gain.key} may be chance: {self._amount(gain)}"
        if gain.difference > 0 and least:
            chance = ", which may be chance" if is_open else ""
            return f"{name} gains less than min_gain {least:g} on the {gain.key}{chance}: {self._amount(gain)}"
        return f"{whether if is_open else f'{name} is not better than the {gain.key}'}: {self._amount(gain)}"

    def _amount(self, gain: Comparison) -> str:
        return f"gain {digits(gain.difference, '+')}, {self.evidence_of(gain)}"


@dataclass(frozen=True)
class Verdict:
    """The gate's decision on the best candidate, and all that it compared."""

    candidates: tuple[Standing, ...]
    """Each of them, the winner first: that with the best value on the rows that decide; of equal values that with the
    lowest loss."""
    scores: Mapping[str, Evaluation]
    """Name of a candidate, BASE or CHAMPION -> its evaluation."""
    min_gain: float
    """In the metric's unit."""
    rows_with_copies: int = 0
    guards: tuple[Standing, ...] = ()
    slices: tuple[Standing, ...] = ()
    """What the winner must not make worse."""
    warnings: tuple[str, ...] = ()

    @property
    def best(self) -> Standing:
        """The winner on the rows that decide."""
        return self.candidates[0]

    @property
    def winner(self) -> str:
        """The winner's name."""
        return self.best.name

    @property
    def objective(self) -> Objective:
        """The metric that decides."""
        return self.best.objective

    @property
    def losses(self) -> dict[str, float]:
        """Name in `scores` -> its `eval_loss`."""
        return {name: each.loss for name, each in self.scores.items()}

    @property
    def values(self) -> dict[str, float]:
        """Name in `scores` -> its value of the metric that decides."""
        return {name: self.objective.of(each.metrics) for name, each in self.scores.items()}

    @property
    def outcome(self) -> Outcome:
        """The verdict."""
        return OUTCOMES[_all_of(each.holds for each in (self.best, *self.guards, *self.slices))]

    @property
    def passed(self) -> bool:
        """Whether the winner may be promoted."""
        return self.outcome == "better"

    @property
    def decided_by(self) -> Standing | None:
        """The limit for which the winner does not pass; None where it passes, or the metric itself decided."""
        left = _worst(each for each in (*self.guards, *self.slices) if each.holds is not True)
        is_broken = left is not None and left.holds is False
        return left if self.best.holds or (self.best.holds is None and is_broken) else None

    @property
    def shown_limits(self) -> tuple[Standing, ...]:
        """The guards and the worst slice."""
        worst = _worst(self.slices)
        return self.guards if worst is None else (*self.guards, worst)

    @property
    def rows_needed(self) -> int | None:
        """About how many more rows would tell, of the limit where one decided; None where no number, or these do."""
        return (self.decided_by or self.best).rows_needed if self.outcome == "cannot_tell" else None

    @property
    def words(self) -> str:
        """The verdict for people: "better", "cannot be told yet: about 120 more rows would tell"."""
        of = "" if self.decided_by is None else f" ({self.decided_by.name})"
        if self.outcome != "cannot_tell":
            return f"{'better' if self.passed else 'not better'}{of}"
        more = (self.decided_by or self.best).needed_in_words
        return f"cannot be told{' yet' if self.rows_needed else ''}: {more}{of}"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the winner did not pass; empty when it did."""
        if self.decided_by is not None:
            return (self.decided_by.reason(self.winner),)
        few = [f"{self.only}: at least {LEAST_ROWS} are needed"] if self.best.rows < LEAST_ROWS else []
        return (*few, *self.best.reasons())

    @property
    def only(self) -> str:
        """Says that rows are few."""
        is_copied = self.rows_with_copies > self.best.rows and not self.best.is_grouped
        copies = f" ({self.rows_with_copies} with copies)" if is_copied else ""
        return f"only {self.best.rows_in_words} decide{copies}"

    @property
    def unseen(self) -> str:
        """What these rows cannot exclude."""
        return unseen(self.best.rows, self.best.is_grouped)

    def as_json(self) -> dict[str, Any]:
        """Its object in the JSON line."""
        comparisons = [
            {"candidate": own.name, **told, "passed": told["verdict"] is True, "verdict": OUTCOMES[told["verdict"]],
             "carried_by": each.carried_by}
            for own in self.candidates for told, each in zip(own.gains_json("verdict"), own.gains, strict=True)
        ]  # fmt: skip
        fields = ("winner", "losses", "values", "min_gain", "rows_with_copies", "warnings", "rows_needed", "reasons")
        return {
            **{name: getattr(self, name) for name in fields},
            **{name: getattr(self.best, name) for name in ("confidence", "rows", "is_grouped")},
            "objective": self.objective.model_dump(),
            "metrics": {name: each.metrics for name, each in self.scores.items()},
            "verdict": self.outcome,
            "passed": self.passed,
            "decided_by": None if self.decided_by is None else self.decided_by.name,
            "comparisons": comparisons,
            "guards": [each.limit_json() for each in self.guards],
            "slices": [each.limit_json() for each in self.slices],
        }


class Guarded(Spec):
    """The evaluations under a guard."""

    name: str
    """As `Standing.name`."""
    objective: Objective
    worse_by: float
    scores: Mapping[str, Evaluation]
    """The winner's, that of `BASE`, and of `CHAMPION` if there is one."""


class Sliced(Spec):
    """How the rows that decide are divided."""

    of: Slices
    values: Annotated[tuple[str, ...], Field(strict=False)]
    """The value of the column on each row."""


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
    winner = min(candidates, key=lambda name: objective.standing(scores[name].metrics))
    ordered = [winner, *(name for name in candidates if name != winner)]
    values = scores[winner].rows_of(objective.metric)
    # The winner is the best of so many candidates: all intervals of all guards hold at once.
    of_guards = confidence_of(len(candidates) * max(1, len(guarded)))
    told = Verdict(
        candidates=_standings(
            {name: name for name in ordered}, scores, objective, min_gain, confidence_of(len(candidates))
        ),
        scores=scores,
        min_gain=min_gain,
        rows_with_copies=0 if values is None else len(values.parts),
        guards=tuple(
            standing
            for each in guarded
            for standing in _standings({each.name: winner}, each.scores, each.objective, -each.worse_by, of_guards)
        ),
        slices=() if sliced is None else slices(sliced, objective, scores, winner, len(candidates)),
    )
    is_few = told.best.rows < FEW_ROWS
    few = [f"{told.only}: with fewer than {FEW_ROWS} the interval may be too narrow"] if is_few else []
    uneven = [
        f"{winner}'s gain on the {each.key} has the {told.best.evidence_of(each)}: "
        "the interval hangs on how many such rows there are"
        for each in told.best.gains
        if each.carried_by and each.exact is None
    ]
    return replace(told, warnings=(*few, *uneven))


def _standings(
    names: Mapping[str, str],
    scores: Mapping[str, Evaluation],
    objective: Objective,
    least: float | None,
    confidence: float,
) -> tuple[Standing, ...]:
    """How each of some adapters stands against the references, all on the same rows.

    Args:
        names: name of a standing -> name of the adapter in `scores`.
        least: as `Standing.least`.
    """
    references = [name for name in (BASE, CHAMPION) if name in scores]
    pairs = [Pair.of_gain(objective, key, scores[key], scores[own]) for own in names.values() for key in references]
    found = compare(objective, pairs, confidence)
    standings = []
    for place, (name, own) in enumerate(names.items()):
        gains = found.pairs[place * len(references) : (place + 1) * len(references)]
        value = objective.of(scores[own].metrics)
        standings.append(Standing(name, objective, least, value, gains, confidence, found.rows, found.is_grouped))
    return tuple(standings)


def slices(
    sliced: Sliced, objective: Objective, scores: Mapping[str, Evaluation], winner: str, candidates: int
) -> tuple[Standing, ...]:
    """How the winner stands on each slice of the rows that decide.

    Args:
        scores: as `decide` is given them.
        candidates: of which the winner is the best on all rows: all intervals of all slices hold at once.
    """
    places: dict[str, set[int]] = {}
    for place in scores[winner].places_of(objective.metric):
        places.setdefault(sliced.values[place], set()).add(place)
    confidence = confidence_of(candidates * len(places))
    names = [name for name in (winner, BASE, CHAMPION) if name in scores]
    least = None if sliced.of.worse_by is None else -sliced.of.worse_by
    found: list[Standing] = []
    for value, its in places.items():
        own = {each: part(scores[each], objective.metric, its) for each in names}
        name = f"slice {sliced.of.by}={legible(value, 60)}"
        found += _standings({name: winner}, own, objective, least, confidence)
    return tuple(found)


_OF_ROWS = ("row_losses", "row_tokens", "row_bytes", "row_groups")
"""Fields of an evaluation that have a value for each of its rows."""


def part(evaluation: Evaluation, metric: str, places: Collection[int]) -> Evaluation:
    """The evaluation on some of its rows alone, of those that have a value of the metric.

    Args:
        places: of these rows, among all.
    """
    values = evaluation.rows_of(metric)
    assert values is not None, "places_of found rows"
    kept = [(number, place) for number, place in enumerate(evaluation.places_of(metric)) if place in places]
    own = tuple(values.parts[number] for number, _ in kept)

    def chosen(rows: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(rows[place] for _, place in kept) if rows else ()

    value = sum(own) / sum(values.weights[number] for number, _ in kept)
    return evaluation.model_copy(
        update={
            "metrics": evaluation.metrics | {metric: value},
            "row_values": {} if metric == EVAL_LOSS else {metric: own},
            "row_places": (),
            **{name: chosen(getattr(evaluation, name)) for name in _OF_ROWS},
        }
    )


def _worst(limits: Iterable[Standing]) -> Standing | None:
    """The limit that matters most: one that is broken, else one that is open, else the lowest gain.

    Of those, one with an interval.
    """
    rank = {False: 0, None: 1, True: 2}
    return min(limits, key=lambda each: (rank[each.holds], each.rows < LEAST_ROWS, each.lowest), default=None)


def _all_of(told: Iterable[bool | None]) -> bool | None:
    """False where one is False, else None where one is None, else True."""
    found = set(told)
    return False if False in found else None if None in found else True


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
