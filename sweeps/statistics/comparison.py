"""The paired comparison of two evaluations of the same rows, by any metric that has a value per row. Pure.

`compare` serves whoever asks whether a difference may be chance: the closing lines, `qsweep compare` and the report by
way of `separate`, and the gate of promotion. `separate` compares each trial with the best one on the sweep's evaluation
rows, after equal steps (`trials`). The best was chosen on these rows, so any pair of the trials may become one that is
compared: each interval has the confidence that lets those of all pairs hold at once (`comparisons`; Hsu, Multiple
Comparisons: Theory and Methods, 1996, chapter 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from sweeps.statistics.exact import Exact, exact
from sweeps.statistics.intervals import (
    FEW_ROWS,
    LEAST_ROWS,
    Interval,
    SeedNoise,
    confidence_of,
    counted_units,
    in_words,
    intervals,
    rows_needed,
    units_of,
    widened,
)
from trainables.contract import Evaluation
from trainables.objective import EVAL_LOSS, Objective, RowValues
from trainables.scoring.requests import BASE

MOST = 10
"""How many of the next trials are compared with the best."""
FEW_COPIES = f"fewer than {LEAST_ROWS} different evaluation rows, or groups of rows"


class Pair(NamedTuple):
    """Two evaluations to compare, such as that of a trial, or of the base without an adapter, with the best trial's."""

    key: str
    """As `Comparison.key`."""
    difference: float
    """As `Comparison.difference`."""
    evaluation: Evaluation | str
    """Its own, or why that is not known."""
    first: Evaluation | str
    """That of the first one, or why that is not known."""
    steps: tuple[int, int] | None = None
    point: int | None = None
    """As those of `Comparison`."""

    @classmethod
    def of_gain(cls, objective: Objective, key: str, reference: Evaluation, candidate: Evaluation) -> Pair:
        """The candidate's gain on the reference."""
        gain = objective.gain(objective.of(reference.metrics), objective.of(candidate.metrics))
        return cls(key, gain, reference, candidate)


@dataclass(frozen=True)
class Comparison:
    """One evaluation against a first one: of a trial, or of the base, against the best trial's or a candidate's."""

    key: str
    """The trial's key, or the name that was scored: `trainables.scoring.requests.BASE`, say."""
    difference: float
    """How much better the first one's value of the metric is, as `Objective.gain`: negative where it is worse."""
    low: float | None = None
    high: float | None = None
    unknown: str = ""
    """Why there is no interval."""
    of_seeds: float = 0.0
    """Half the width that the interval would have from other seeds alone, however many rows there were."""
    carried_by: int | None = None
    """As `Interval.carried_by`."""
    steps: tuple[int, int] | None = None
    """The step of its evaluation, and that of the first one's; None of the base."""
    point: int | None = None
    """The report point that both are at, in what rungs count: steps or examples; None where the two are unequal."""
    exact: Exact | None = None
    """The exact test, which decides in place of the interval; None where scores are not 0 or 1, or rows are grouped."""
    is_same: bool = False
    """Whether each row has the same loss in both evaluations, so that it is one model."""

    @property
    def apart(self) -> bool | None:
        """Whether the difference is more than chance on these rows; None when that cannot be told."""
        if self.low is None or self.high is None:
            return None
        if self.exact is None or self.is_same:
            return self.low > 0 or self.high < 0
        return self.above(0.0) is not None

    def above(self, bound: float) -> bool | None:
        """Whether the difference is above `bound`, beyond chance on these rows; None where that cannot be told.

        The exact test decides alone where scores are 0 or 1 and no row is a copy; what other seeds would give is
        counted in the interval.
        """
        if self.is_same:
            return bound < 0
        by_exact = None if self.exact is None else self.exact.above(bound)
        if self.is_exact or self.low is None or self.high is None or self.carried_by == 0:
            return by_exact
        by_interval = True if self.low > bound else False if self.high < bound else None
        return by_interval if self.exact is None or by_exact == by_interval else None

    @property
    def is_exact(self) -> bool:
        """Whether the exact test decides alone."""
        return self.exact is not None and self.exact.is_whole and not self.of_seeds

    def rows_needed(self, rows: int, bound: float = 0.0) -> int | None:
        """Evaluation rows that would tell whether the difference is above `bound`, or apart from it.

        None where no number of them would, or these do.
        """
        is_untold = self.exact is None and self.carried_by == 0
        if self.low is None or self.high is None or is_untold or self.above(bound) is not None:
            return None
        gap = self.difference - bound
        half = self.difference - self.low if gap > 0 else self.high - self.difference
        by_interval = rows_needed(gap, half, rows, self.of_seeds)
        by_exact = by_interval if self.exact is None else self.exact.rows_needed(bound)
        if self.is_exact:
            return by_exact
        return None if by_exact is None or by_interval is None else max(by_exact, by_interval)

    def interval_in_words(self, confidence: float, rows: str, is_turned: bool = False) -> str:
        """The interval with its confidence and the rows (`counted_units`); empty where there is none.

        Args:
            is_turned: for the interval of how much better the other one is.
        """
        if self.low is None or self.high is None:
            return ""
        ends = (-self.high, -self.low) if is_turned else (self.low, self.high)
        return in_words(ends, confidence, rows, self.carried_by)

    def evidence_in_words(self, confidence: float, rows: str) -> str:
        """What tells of a gain: the interval, and the exact test where there is one; or why there is nothing."""
        if self.is_same:
            return "with the same loss on each row"
        told = self.interval_in_words(confidence, rows) or self.unknown
        if self.carried_by == 0 and self.exact is None:
            told += ": chance cannot be told"
        return told if self.exact is None else f"{told}; {self.exact.words}"

    def as_json(self) -> dict[str, Any]:
        """Its part of the JSON line, without its key."""
        fields = asdict(self)
        del fields["key"], fields["of_seeds"], fields["is_same"], fields["exact"]
        tested = {} if self.exact is None else {"exact": asdict(self.exact) | {"p_value": self.exact.p_value}}
        return {**fields, "apart": self.apart, **tested}


class Comparisons(NamedTuple):
    """What `compare` found."""

    pairs: tuple[Comparison, ...]
    """In the order that was asked for."""
    rows: int
    """Rows without copies of others, or groups of rows."""
    is_grouped: bool
    """Whether rows that belong together count as one."""


def compare(
    objective: Objective, pairs: Sequence[Pair], confidence: float, noise: SeedNoise | None = None
) -> Comparisons:
    """Compares each pair of evaluations row by row.

    Args:
        objective: what they are compared by.
        confidence: of each interval, such as 0.99.
        noise: what another seed would change.
    """
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
            gains, weights = [np.subtract(*each) for each in parts.values()], _values(firsts[0], metric).weights
            spans = dict(zip(told, intervals(np.asarray(gains), weights, confidence, units), strict=True))
            if not is_grouped and metric != EVAL_LOSS:
                tests = {place: exact(*each, units, confidence) for place, each in parts.items()}
    found = [
        _compared(pair, spans.get(place), why or few, tests.get(place), confidence, noise)
        for place, (pair, why) in enumerate(zip(pairs, unknown, strict=True))
    ]
    return Comparisons(tuple(found), rows, is_grouped)


def _compared(
    pair: Pair, span: Interval | None, why: str, test: Exact | None, confidence: float, noise: SeedNoise | None
) -> Comparison:
    """The comparison of a pair with its interval over rows; with the reason why where there is none."""
    if span is None:
        return Comparison(pair.key, pair.difference, unknown=why, steps=pair.steps, point=pair.point)
    margin = 0.0
    if noise is not None:
        # The base has no seed: only that of the first one counts there.
        margin = noise.margin(confidence, 1 if pair.key == BASE else 2)
        span = widened(pair.difference, span, margin)
    if test is not None:  # its scores lie between 0 and 1
        span = span._replace(low=max(span.low, -1.0), high=min(span.high, 1.0))
    losses = [each.row_losses for each in (pair.first, pair.evaluation) if isinstance(each, Evaluation)]
    is_same = bool(losses[0]) and losses[0] == losses[1]
    return Comparison(
        pair.key, pair.difference, span.low, span.high, "", margin, span.carried_by, pair.steps, pair.point, test,
        is_same,
    )  # fmt: skip


@dataclass(frozen=True)
class Separation:
    """The best trial against others."""

    rows: int
    """Evaluation rows without copies of others, or groups of rows."""
    confidence: float
    """Confidence of each interval, such as 0.99."""
    trials: tuple[Comparison, ...]
    """The next ones, best first."""
    base: Comparison | None
    not_compared: int
    """Number of ranked trials that are behind those and were not compared."""
    seeds: SeedNoise | None = None
    """What another seed would change; the intervals count it. None where no trial was trained again."""
    is_grouped: bool = False
    """Whether rows that belong together count as one."""

    @property
    def rows_in_words(self) -> str:
        """The rows that decide: "32 rows", "8 groups of rows"."""
        return counted_units(self.rows, self.is_grouped)

    @property
    def is_told(self) -> bool:
        """Whether there is an interval for any trial, or for the base."""
        return any(each.apart is not None for each in (*self.trials, *([self.base] if self.base is not None else [])))

    @property
    def is_narrow(self) -> bool:
        """Whether the rows are so few that the intervals may be too narrow."""
        return LEAST_ROWS <= self.rows < FEW_ROWS

    def of(self, key: str) -> Comparison | None:
        """The comparison with a trial; None when it was not compared."""
        return next((each for each in self.trials if each.key == key), None)

    def as_json(self) -> dict[str, Any]:
        """Its object in the JSON line."""
        return {
            "rows": self.rows,
            "is_grouped": self.is_grouped,
            "confidence": self.confidence,
            "trials": [{"trial_key": each.key, **each.as_json()} for each in self.trials],
            "base": self.base and self.base.as_json(),
            "seeds": self.seeds and self.seeds.as_json(),
            "not_compared": self.not_compared,
        }


def comparisons(ranked: int, has_base: bool) -> int:
    """How many intervals have to hold at once, where the best of `ranked` trials is compared with the next ones.

    They are all pairs among the best and the `MOST` next ones, and the base; or the best with each of the others, where
    those are more.
    """
    near = min(ranked, MOST + 1)
    return max(1, ranked - 1 + has_base, near * (near - 1) // 2 + has_base)


def separate(
    objective: Objective, others: Sequence[Pair], base: Pair | None, ranked: int, noise: SeedNoise | None = None
) -> Separation:
    """Compares others with the best trial.

    Args:
        objective: what the trials are compared by.
        others: the trials to compare, best first.
        base: None where it was not evaluated.
        ranked: how many trials the best was chosen from.
    """
    confidence = confidence_of(comparisons(ranked, base is not None))
    found = compare(objective, [*others, *([] if base is None else [base])], confidence, noise)
    return Separation(
        rows=found.rows,
        confidence=confidence,
        trials=found.pairs[: len(others)],
        base=None if base is None else found.pairs[-1],
        seeds=noise,
        is_grouped=found.is_grouped,
        not_compared=ranked - 1 - len(others),
    )


def _unknown(metric: str, firsts: Sequence[Evaluation], pair: Pair) -> str:
    """Why two evaluations cannot be compared row by row; empty when they can. `firsts` are those of all pairs."""
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
    """As `units_of`: copies are known by their losses, whatever the metric, where all evaluations have these."""
    places, groups = evaluations[0].places_of(metric), evaluations[0].row_groups
    tokens = evaluations[0].row_tokens
    if all(len(each.row_losses) == len(each.row_tokens) > places[-1] for each in evaluations):
        units = units_of(tokens, [each.row_losses for each in evaluations], groups)
    else:
        units = units_of(range(places[-1] + 1), [], groups)
    numbers: list[int] = np.unique([units[place] for place in places], return_inverse=True)[1].tolist()
    return numbers
