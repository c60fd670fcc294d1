"""What the winner must not make worse: guards, by further rows or another metric, and slices of the rows that decide.

Pure. A limit holds when the rows show it: the interval of the gain must lie above -worse_by. So few rows do not pass a
bad adapter, and the verdict says how many more are needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from sweeps.config.model import Slices
from sweeps.statistics.comparison import Comparison, Pair, compare
from sweeps.statistics.intervals import LEAST_ROWS, confidence_of, counted_units
from trainables.contract import Evaluation
from trainables.inputs.legible import legible
from trainables.objective import EVAL_LOSS, Objective, digits
from trainables.specs import Spec


@dataclass(frozen=True)
class Limit:
    """How the winner did under a guard, or on a slice."""

    name: str
    """"guard general.jsonl", "slice language=de"."""
    objective: Objective
    """The metric that is compared."""
    worse_by: float | None
    """How much worse the winner may be at most; None where that is only shown."""
    value: float
    """The winner's value of the metric."""
    gains: tuple[Comparison, ...]
    """On the base, and on the champion where there is one; each `difference` is the gain."""
    confidence: float
    rows: int
    """Without copies of others, or groups of rows."""
    is_grouped: bool

    @property
    def least(self) -> float:
        """The lower of the gains."""
        return min(each.difference for each in self.gains)

    @property
    def holds(self) -> bool | None:
        """Whether the winner is not worse by more than it may be; None where that cannot be told."""
        return all_of(self.told(each) for each in self.gains)

    def told(self, gain: Comparison) -> bool | None:
        """Whether one gain is above what is allowed; None where that cannot be told."""
        return True if self.worse_by is None else gain.above(-self.worse_by)

    @property
    def rows_needed(self) -> int | None:
        """About how many more rows would tell; None where no number of them would, or these do."""
        if self.worse_by is None:
            return None
        open_ones = [each for each in self.gains if self.told(each) is None]
        return more_rows(((each, -self.worse_by) for each in open_ones), self.rows)

    @property
    def rows_in_words(self) -> str:
        """Its rows: "12 rows", "5 groups of rows"."""
        return counted_units(self.rows, self.is_grouped)

    @property
    def words(self) -> str:
        """What it is: "slice language=de (exact_match, 12 rows)"."""
        return f"{self.name} ({self.objective.metric}, {self.rows_in_words})"

    def reason(self, winner: str) -> str:
        """Why the limit does not hold, or whether it does cannot be told."""
        which = next(each for each in self.gains if self.told(each) is self.holds)
        evidence = which.evidence_in_words(self.confidence, self.rows_in_words)
        told = f"by more than worse_by {self.worse_by:g}: gain {digits(which.difference, '+')}, {evidence}"
        if self.holds is False:
            return f"{winner} is worse than the {which.key} on {self.words} {told}"
        more = rows_in_words(self.rows_needed, self.is_grouped)
        return f"{winner} may be worse than the {which.key} on {self.words} {told}; {more}"

    def as_json(self) -> dict[str, Any]:
        """Its object in the JSON line."""
        gains = [
            {"against": each.key, "gain": each.difference, "low": each.low, "high": each.high, "holds": self.told(each)}
            for each in self.gains
        ]
        fields = {name: getattr(self, name) for name in ("name", "worse_by", "value", "rows", "holds", "rows_needed")}
        return {**fields, "metric": self.objective.metric, "confidence": self.confidence, "gains": gains}


def limit(
    name: str,
    objective: Objective,
    worse_by: float | None,
    winner: Evaluation,
    references: Mapping[str, Evaluation],
    confidence: float,
) -> Limit:
    """Compares the winner with the references, all on the same rows.

    Args:
        references: `BASE`, and `CHAMPION` if there is one -> its evaluation.
        confidence: such as 0.99.
    """
    pairs = [Pair.of_gain(objective, key, each, winner) for key, each in references.items()]
    found = compare(objective, pairs, confidence)
    value = objective.of(winner.metrics)
    return Limit(name, objective, worse_by, value, found.pairs, confidence, found.rows, found.is_grouped)


class Guarded(Spec):
    """The evaluations under a guard."""

    name: str
    """As `Limit.name`."""
    objective: Objective
    worse_by: float
    scores: Mapping[str, Evaluation]
    """The winner's, that of `BASE`, and of `CHAMPION` if there is one."""


def guards(found: Sequence[Guarded], winner: str, candidates: int) -> tuple[Limit, ...]:
    """Compares the winner with the references under each guard.

    Args:
        candidates: of which the winner is the best: all intervals of all guards hold at once.
    """
    confidence = confidence_of(candidates * max(1, len(found)))
    return tuple(
        limit(
            each.name,
            each.objective,
            each.worse_by,
            each.scores[winner],
            {name: score for name, score in each.scores.items() if name != winner},
            confidence,
        )
        for each in found
    )


class Sliced(Spec):
    """How the rows that decide are divided."""

    of: Slices
    values: Annotated[tuple[str, ...], Field(strict=False)]
    """The value of the column on each row."""


def slices(
    sliced: Sliced, objective: Objective, winner: Evaluation, references: Mapping[str, Evaluation], candidates: int
) -> tuple[Limit, ...]:
    """Compares the winner with the references on each slice of the rows that decide.

    Args:
        candidates: of which the winner is the best on all rows: all intervals of all slices hold at once.
    """
    places: dict[str, set[int]] = {}
    for place in winner.places_of(objective.metric):
        places.setdefault(sliced.values[place], set()).add(place)
    confidence = confidence_of(candidates * len(places))
    return tuple(
        limit(
            f"slice {sliced.of.by}={legible(value, 60)}",
            objective,
            sliced.of.worse_by,
            part(winner, objective.metric, its),
            {name: part(each, objective.metric, its) for name, each in references.items()},
            confidence,
        )
        for value, its in places.items()
    )


def worst(limits: Iterable[Limit]) -> Limit | None:
    """The limit that matters most: one that is broken, else one that is open, else the lowest gain.

    Of those, one with an interval.
    """
    rank = {False: 0, None: 1, True: 2}
    return min(limits, key=lambda each: (rank[each.holds], each.rows < LEAST_ROWS, each.least), default=None)


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
            **{name: chosen(getattr(evaluation, name)) for name in ("row_losses", "row_tokens", "row_groups")},
        }
    )


def all_of(told: Iterable[bool | None]) -> bool | None:
    """False where one is False, else None where one is None, else True."""
    found = set(told)
    return False if False in found else None if None in found else True


def more_rows(gains: Iterable[tuple[Comparison, float]], rows: int) -> int | None:
    """About how many more rows would tell whether each gain is above its bound; None where no number of them would.

    Args:
        rows: those that there are.
    """
    if rows < LEAST_ROWS:
        return LEAST_ROWS - rows
    needed = [gain.rows_needed(rows, bound) for gain, bound in gains]
    counts = [count for count in needed if count is not None]
    return max(1, *(count - rows for count in counts)) if counts and len(counts) == len(needed) else None


def rows_in_words(needed: int | None, is_grouped: bool) -> str:
    """What would tell, in words: "about 120 more rows would tell"."""
    if needed is None:
        return "more rows like these would not tell"
    return f"about {needed} more {'group' if is_grouped else 'row'}{'' if needed == 1 else 's'} would tell"
