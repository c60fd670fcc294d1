"""Compares two evaluations of the same rows in pairs, by any metric that has a value per row. Pure.

`compare` tells whether a difference may be chance. The gate of promotion calls it directly; the closing lines, `qsweep
compare` and the report call it through `separate`. `separate` compares each trial with the best one on the sweep's
evaluation rows, after equal steps (`trials`). The best trial was chosen on these same rows, so any pair of trials might
have been compared. Each interval therefore has the confidence with which the intervals of all pairs hold at once
(`comparisons`; Hsu, Multiple Comparisons: Theory and Methods, 1996, chapter 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from sweeps.statistics.confidence import confidence_of
from sweeps.statistics.exact import Exact, exact
from sweeps.statistics.intervals import (
    Interval,
    SeedNoise,
    counted_units,
    in_words,
    intervals,
    rows_needed,
    units_of,
    widened,
)
from trainables.contract import Evaluation
from trainables.objective import FEW_ROWS, LEAST_ROWS, LOSSES, Objective, RowValues
from trainables.scoring.requests import BASE

MOST_COMPARED = 10
"""Trials after the best one that are compared with it."""
FEW_COPIES = f"fewer than {LEAST_ROWS} different evaluation rows, or groups of rows"


class Pair(NamedTuple):
    """Two evaluations to compare: `evaluation` of a trial or the base, and `first`, such as the best trial's.

    `key`, `difference`, `steps` and `point` are those of the `Comparison`.
    """

    key: str
    difference: float
    evaluation: Evaluation | str
    """A string says why the evaluation is unknown."""
    first: Evaluation | str
    steps: tuple[int, int] | None = None
    point: int | None = None
    part: int | None = None
    """Number of rows, if the two have only a part of the evaluation rows in common: their rows are then these."""

    @classmethod
    def of_gain(cls, objective: Objective, key: str, reference: Evaluation, candidate: Evaluation) -> Pair:
        """Pairs a candidate, as `first`, with a reference; the difference is the candidate's gain."""
        gain = objective.gain(objective.of(reference.metrics), objective.of(candidate.metrics))
        return cls(key, gain, reference, candidate)


@dataclass(frozen=True)
class Comparison:
    """Result for one pair: an evaluation of a trial or the base against a first one, such as the best trial's."""

    key: str
    """The trial's key, or a scored name such as `trainables.scoring.requests.BASE`."""
    difference: float
    """Gain of the first evaluation by the metric (`Objective.gain`); negative if the first one is worse."""
    low: float | None = None
    high: float | None = None
    """`low` and `high` are the ends of the interval over rows and seeds; None if the exact test decides alone."""
    unknown: str = ""
    """Why neither an interval nor an exact test is there."""
    of_seeds: float = 0.0
    """Half the width of the interval from other seeds alone, with any number of rows."""
    carried_by: int | None = None
    """See `Interval.carried_by`."""
    steps: tuple[int, int] | None = None
    """Step of the evaluation and step of the first one; None for the base."""
    point: int | None = None
    """Report point of both evaluations, in steps or examples; None if their points differ."""
    exact: Exact | None = None
    """The exact test; None for losses, for grouped rows, and where `exact` gives none."""
    is_same: bool = False
    """Whether both evaluations have the same loss on each row, and so are of the same model."""
    rows: int | None = None
    """Rows without copies, or groups, that both evaluations have, if these are a part of the evaluation rows."""

    @property
    def is_told(self) -> bool:
        """Tells whether there is an interval or an exact test."""
        return self.exact is not None or (self.low is not None and self.high is not None)

    @property
    def apart(self) -> bool | None:
        """Tells whether the difference is more than chance on these rows; None if chance is unknown."""
        if not self.is_told:
            return None
        told = self._by_interval(0.0) if self.exact is None else self.above(0.0)
        return told is not None and not self.is_same

    def above(self, bound: float) -> bool | None:
        """Tells whether the difference is above `bound`, beyond chance on these rows; None if undecided.

        The exact test decides alone if scores are 0 or 1, no row is a copy and seeds are not counted. Else the test and
        the interval, which counts seeds, must agree.
        """
        if self.is_same:
            return bound < 0
        by_exact = None if self.exact is None else self.exact.above(bound)
        if self.is_exact or not self.is_told or self.carried_by == 0:
            return by_exact
        by_interval = self._by_interval(bound)
        return by_interval if self.exact is None or by_exact == by_interval else None

    def _by_interval(self, bound: float) -> bool | None:
        if self.low is None or self.high is None:
            return None
        return True if self.low > bound else False if self.high < bound else None

    @property
    def is_exact(self) -> bool:
        """Tells whether the exact test decides alone."""
        return self.exact is not None and self.exact.is_whole and not self.of_seeds

    def rows_needed(self, rows: int, bound: float = 0.0) -> int | None:
        """Estimates the rows that would decide on `bound`; None if no number of rows would, or the present ones do."""
        by_exact = None if self.exact is None else self.exact.rows_needed(bound)
        is_untold = self.exact is None and self.carried_by == 0
        if self.low is None or self.high is None or is_untold or self.above(bound) is not None:
            return by_exact if self.above(bound) is None else None
        gap = self.difference - bound
        half = self.difference - self.low if gap > 0 else self.high - self.difference
        by_interval = rows_needed(gap, half, rows, self.of_seeds)
        if self.exact is None:
            return by_interval
        return None if by_exact is None or by_interval is None else max(by_exact, by_interval)

    def shown(self, bound: float = 0.0) -> tuple[tuple[float, float] | None, Exact | None]:
        """Returns the interval and the exact test that say of `bound` what `above` says; None for what does not.

        About 0 the exact test has a p value and no interval. About another bound it has the ends of `Exact`, and if the
        interval over rows must agree, these are the wider ones of both.
        """
        spans = [] if self.low is None or self.high is None else [(self.low, self.high)]
        if self.exact is None or self.is_same:
            return spans[0] if spans and self.exact is None else None, None
        if bound != 0:
            lows, highs = zip((self.exact.low, self.exact.high), *spans, strict=True)
            return (min(lows), max(highs)), None
        told = self.above(0.0)
        ends = spans[0] if spans and self._by_interval(0.0) == told else None
        return ends, self.exact if self.exact.above(0.0) == told else None

    def evidence_in_words(self, confidence: float, rows: str, bound: float = 0.0, *, is_turned: bool = False) -> str:
        """Formats the counts of the exact test, if there is one, and `chance_in_words`.

        Args:
            rows: words of `counted_units`.
            is_turned: whether the interval is that of the other evaluation's gain.
        """
        chance = self.chance_in_words(confidence, rows, bound, is_turned=is_turned)
        if self.exact is None or self.is_same:
            return chance
        return f"{self.exact.counts_in_words}, {chance}"

    def chance_in_words(self, confidence: float, rows: str, bound: float = 0.0, *, is_turned: bool = False) -> str:
        """Formats what decides about `bound`: p of the exact test and the interval; or why there is neither."""
        if self.is_same:
            return "with the same loss on each row"
        ends, test = self.shown(bound)
        told = [self.unknown if test is None else test.p_in_words]
        if ends is not None:
            told.append(in_words((-ends[1], -ends[0]) if is_turned else ends, confidence, rows, self.carried_by))
        return ", ".join(filter(None, told)) or "the exact test and the interval contradict each other"

    def as_json(self) -> dict[str, Any]:
        """Returns the comparison for the JSON line, without its key."""
        fields = asdict(self)
        del fields["key"], fields["of_seeds"], fields["is_same"], fields["exact"]
        if self.rows is None:
            del fields["rows"]
        return {**fields, **self.evidence_json(), "apart": self.apart}

    def evidence_json(self, bound: float = 0.0) -> dict[str, Any]:
        """Returns the evidence for the JSON line: `low` and `high`, None without an interval, and the exact test."""
        ends, test = self.shown(bound)
        told: dict[str, Any] = dict(zip(("low", "high"), ends or (None, None), strict=True))
        if test is not None:
            told["exact"] = asdict(test) | {"p_value": test.p_value, "must_be_below": 1 - test.confidence}
        return told


class Comparisons(NamedTuple):
    """Result of `compare`."""

    pairs: tuple[Comparison, ...]
    """In the order of the argument `pairs`."""
    rows: int
    """Number of rows without copies, or of groups of rows."""
    is_grouped: bool


def compare(
    objective: Objective, pairs: Sequence[Pair], confidence: float, noise: SeedNoise | None = None
) -> Comparisons:
    """Compares each pair of evaluations row by row. Each interval has this confidence; `noise` widens the intervals."""
    groups: dict[int | None, list[int]] = {}
    for place, pair in enumerate(pairs):
        groups.setdefault(pair.part, []).append(place)
    if groups.keys() <= {None}:
        return _on_equal_rows(objective, pairs, confidence, noise)
    told: dict[int, Comparison] = {}
    every = []
    for part, places in groups.items():
        found = _on_equal_rows(objective, [pairs[place] for place in places], confidence, noise)
        rows = None if part is None else found.rows
        told |= {place: replace(each, rows=rows) for place, each in zip(places, found.pairs, strict=True)}
        every.append(found)
    in_order = tuple(told[place] for place in range(len(pairs)))
    return Comparisons(in_order, max(each.rows for each in every), any(each.is_grouped for each in every))


def _on_equal_rows(
    objective: Objective, pairs: Sequence[Pair], confidence: float, noise: SeedNoise | None
) -> Comparisons:
    metric = objective.metric
    firsts = [each.first for each in pairs if isinstance(each.first, Evaluation)]
    unknown = [_unknown(metric, firsts, each) for each in pairs]
    told = {
        place: (pair.first, pair.evaluation)
        for place, (pair, why) in enumerate(zip(pairs, unknown, strict=True))
        if isinstance(pair.first, Evaluation) and isinstance(pair.evaluation, Evaluation) and not why
    }
    rows = max((len(_values(each, metric).parts) for each in firsts), default=0)
    few = FEW_COPIES
    if rows < LEAST_ROWS:
        few = f"{rows} evaluation row{'s' if rows > 1 else ''}, at least {LEAST_ROWS} are needed for an interval"
    is_grouped = any(each.row_groups for each in firsts)
    spans: dict[int, Interval] = {}
    tests: dict[int, Exact | None] = {}
    if told and rows:
        units = _units(metric, [each for pair in told.values() for each in pair])
        rows = len(set(units))
        if rows >= LEAST_ROWS:
            values = {place: (_values(own, metric), _values(other, metric)) for place, (own, other) in told.items()}
            parts = {
                place: (other.parts, own.parts) if objective.mode == "min" else (own.parts, other.parts)
                for place, (own, other) in values.items()
            }
            both, weights = np.asarray(list(parts.values())), _values(firsts[0], metric).weights
            is_score = metric not in LOSSES and both.min() >= 0 and both.max() <= 1
            found = intervals(both[:, 0] - both[:, 1], weights, confidence, units, 1.0 if is_score else math.inf)
            spans = dict(zip(told, found, strict=True))
            if is_score and not is_grouped:
                tests = {place: exact(*each, units, confidence) for place, each in parts.items()}
    told_of = [
        _compared(pair, spans.get(place), why or few, tests.get(place), confidence, noise)
        for place, (pair, why) in enumerate(zip(pairs, unknown, strict=True))
    ]
    return Comparisons(tuple(told_of), rows, is_grouped)


def _compared(
    pair: Pair, span: Interval | None, why: str, test: Exact | None, confidence: float, noise: SeedNoise | None
) -> Comparison:
    if span is None:
        return Comparison(pair.key, pair.difference, unknown=why, steps=pair.steps, point=pair.point)
    margin = 0.0
    if noise is not None:
        # The base has no seed, so only the seed of the first one counts.
        margin = noise.margin(confidence, 1 if pair.key == BASE else 2)
        span = widened(pair.difference, span, margin)
    if test is not None:  # its scores lie between 0 and 1
        span = span._replace(low=max(span.low, -1.0), high=min(span.high, 1.0))
    losses = [each.row_losses for each in (pair.first, pair.evaluation) if isinstance(each, Evaluation)]
    is_same = bool(losses[0]) and losses[0] == losses[1]
    found = Comparison(
        pair.key, pair.difference, span.low, span.high, "", margin, span.carried_by, pair.steps, pair.point, test,
        is_same,
    )  # fmt: skip
    return replace(found, low=None, high=None, carried_by=None) if found.is_exact else found


@dataclass(frozen=True)
class Separation:
    """The best trial compared with other trials and the base."""

    rows: int
    """Number of evaluation rows without copies, or of groups of rows."""
    confidence: float
    """Confidence of each interval, such as 0.99."""
    trials: tuple[Comparison, ...]
    """The next trials, best first."""
    base: Comparison | None
    not_compared: int
    """Number of ranked trials after `trials`."""
    seeds: SeedNoise | None = None
    """Spread over seeds, which the intervals include; None if no trial was repeated."""
    is_grouped: bool = False
    counted: frozenset[str] = frozenset()
    """Metrics whose rows are 0 or 1 in each compared evaluation that has them."""

    @property
    def rows_in_words(self) -> str:
        """Formats the number of rows: "32 rows", "8 groups of rows"."""
        return counted_units(self.rows, self.is_grouped)

    def rows_of(self, found: Comparison) -> str:
        """Formats the number of rows of a comparison."""
        return counted_units(found.rows or self.rows, self.is_grouped)

    @property
    def is_told(self) -> bool:
        """Tells whether there is an interval or a test for any trial or the base."""
        return any(each.apart is not None for each in (*self.trials, *([self.base] if self.base is not None else [])))

    @property
    def is_narrow(self) -> bool:
        """Tells whether the rows are so few that the intervals may be too narrow."""
        return LEAST_ROWS <= self.rows < FEW_ROWS

    def of(self, key: str) -> Comparison | None:
        """Returns the comparison with a trial; None if the trial was not compared."""
        return next((each for each in self.trials if each.key == key), None)

    def as_json(self) -> dict[str, Any]:
        """Returns the object for the JSON line."""
        return {
            "rows": self.rows,
            "is_grouped": self.is_grouped,
            "confidence": self.confidence,
            "trials": [{"trial_key": each.key, **each.as_json()} for each in self.trials],
            "base": self.base and self.base.as_json(),
            "seeds": self.seeds and asdict(self.seeds),
            "not_compared": self.not_compared,
        }


def comparisons(ranked: int, has_base: bool) -> int:
    """Counts the intervals that must hold at once when the best of `ranked` trials is compared with the next ones.

    Counts all pairs among the best and the `MOST_COMPARED` next trials, or the best with every other trial if these are
    more. The base adds one interval.
    """
    near = min(ranked, MOST_COMPARED + 1)
    return max(1, ranked - 1 + has_base, near * (near - 1) // 2 + has_base)


def separate(
    objective: Objective, others: Sequence[Pair], base: Pair | None, ranked: int, noise: SeedNoise | None = None
) -> Separation:
    """Compares trials, best first, and the base with the best of `ranked` trials."""
    confidence = confidence_of(comparisons(ranked, base is not None))
    pairs = [*others, *([] if base is None else [base])]
    found = compare(objective, pairs, confidence, noise)
    return Separation(
        counted=_counted(pairs),
        rows=found.rows,
        confidence=confidence,
        trials=found.pairs[: len(others)],
        base=None if base is None else found.pairs[-1],
        seeds=noise,
        is_grouped=found.is_grouped,
        not_compared=ranked - 1 - len(others),
    )


def _counted(pairs: Sequence[Pair]) -> frozenset[str]:
    known = [
        rows.row_values for pair in pairs for rows in (pair.first, pair.evaluation) if isinstance(rows, Evaluation)
    ]
    names = {name for values in known for name in values}
    return frozenset(n for n in names if all({*values.get(n, ())} <= {0.0, 1.0} for values in known))


def _unknown(metric: str, firsts: Sequence[Evaluation], pair: Pair) -> str:
    """Says why two evaluations cannot be compared row by row; empty if they can. `firsts` are those of all pairs."""
    first, other = pair.first, pair.evaluation
    if isinstance(first, str):
        return first
    if isinstance(other, str):
        return other
    if len({(each.row_tokens, each.places_of(metric)) for each in (first, other, *firsts)}) > 1:
        return "it was evaluated on other rows"
    if first.hardware != other.hardware:
        return f"it was evaluated on {other.hardware or 'unknown hardware'}, the other on {first.hardware or 'unknown'}"
    return ""


def _values(evaluation: Evaluation, metric: str) -> RowValues:
    found = evaluation.rows_of(metric)
    return RowValues((), ()) if found is None else found


def _units(metric: str, evaluations: Sequence[Evaluation]) -> list[int]:
    """Numbers the units of rows (`units_of`). Copies are found by their losses, if all evaluations have losses."""
    places, groups = evaluations[0].places_of(metric), evaluations[0].row_groups
    tokens = evaluations[0].row_tokens
    if all(len(each.row_losses) == len(each.row_tokens) > places[-1] for each in evaluations):
        units = units_of(tokens, [each.row_losses for each in evaluations], groups)
    else:
        units = units_of(range(places[-1] + 1), [], groups)
    numbers: list[int] = np.unique([units[place] for place in places], return_inverse=True)[1].tolist()
    return numbers
