"""Whether the best trial is better than the next ones by more than chance. Pure: values of rows in, intervals out.

Each trial is compared with the best on the sweep's evaluation rows, after equal steps (`eval_rows`). The best was
chosen on these rows, so any pair of the trials may become one that is compared: each interval has the confidence that
lets those of all pairs hold at once (`comparisons`; Hsu, Multiple Comparisons: Theory and Methods, 1996, chapter 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from sweeps.record.paired_rows import FEW_ROWS, LEAST_ROWS, Interval, confidence_of, counted_units, intervals, units_of
from sweeps.record.seeds import SeedNoise, widened
from trainables.contract import Evaluation
from trainables.scoring.requests import BASE

MOST = 10
"""How many of the next trials are compared with the best."""
FEW_COPIES = f"fewer than {LEAST_ROWS} different evaluation rows, or groups of rows"


class Other(NamedTuple):
    """A trial, or the base without an adapter, that is to be compared with the best trial."""

    key: str
    """As `Compared.key`."""
    difference: float
    """As `Compared.difference`."""
    evaluation: Evaluation | str
    """Its own, or why that is not known."""
    best: Evaluation | str
    """The best trial's, or why that is not known."""
    steps: tuple[int, int] | None = None
    point: int | None = None
    """As those of `Compared`."""


@dataclass(frozen=True)
class Compared:
    """A trial, or the base without an adapter, against the best trial."""

    key: str
    """The trial's key, or `trainables.scoring.requests.BASE`."""
    difference: float
    """How much higher its value of the metric is."""
    low: float | None = None
    high: float | None = None
    unknown: str = ""
    """Why there is no interval."""
    of_seeds: float = 0.0
    """Half the width that the interval would have from other seeds alone, however many rows there were."""
    carried_by: int | None = None
    """How many rows carry most of the difference's variance, as `paired_rows.carriers` tells it."""
    steps: tuple[int, int] | None = None
    """The step of its evaluation, and that of the best trial's; None of the base."""
    point: int | None = None
    """The report point that both are at, in what rungs count: steps or examples; None where the two are unequal."""

    @property
    def apart(self) -> bool | None:
        """Whether the difference is more than chance on these rows; None when that cannot be told."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0

    def rows_needed(self, rows: int) -> int | None:
        """Evaluation rows that would show such a difference; None where no number of them would.

        What rows leave open shrinks with the square root of their number, and what seeds do with none.
        """
        if self.apart is not False or self.low is None or self.high is None or abs(self.difference) <= self.of_seeds:
            return None
        half = self.difference - self.low if self.difference > 0 else self.high - self.difference
        of_rows = half**2 - self.of_seeds**2
        return math.ceil(rows * of_rows / (self.difference**2 - self.of_seeds**2))

    def as_json(self) -> dict[str, Any]:
        """Its part of the JSON line, without its key."""
        fields = asdict(self)
        del fields["key"], fields["of_seeds"]
        return {**fields, "apart": self.apart}


@dataclass(frozen=True)
class Separation:
    """The best trial against others."""

    rows: int
    """Evaluation rows without copies of others, or groups of rows."""
    confidence: float
    """Confidence of each interval, such as 0.99."""
    trials: tuple[Compared, ...]
    """The next ones, best first."""
    base: Compared | None
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

    def of(self, key: str) -> Compared | None:
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
    metric: str, others: Sequence[Other], base: Other | None, ranked: int, noise: SeedNoise | None = None
) -> Separation:
    """Compares others with the best trial.

    Args:
        metric: what the trials are compared by.
        others: the trials to compare, best first.
        base: None where it was not evaluated.
        ranked: how many trials the best was chosen from.
    """
    confidence = confidence_of(comparisons(ranked, base is not None))
    pairs = [*others, *([base] if base is not None else [])]
    known = [each.best for each in pairs if isinstance(each.best, Evaluation)]
    unknown = {each.key: _unknown(metric, known, each) for each in pairs}
    told = {
        each.key: (each.best, each.evaluation)
        for each in pairs
        if isinstance(each.best, Evaluation) and isinstance(each.evaluation, Evaluation) and not unknown[each.key]
    }
    spans: dict[str, Interval] = {}
    rows = max((len(_parts(each, metric)) for each in known), default=0)
    if told:
        units = _units([each for pair in told.values() for each in pair], rows)
        rows = max(units) + 1
        if rows >= LEAST_ROWS:
            weights = (known[0].rows_of(metric) or ((), ()))[1]
            gains = [np.subtract(_parts(other, metric), _parts(best, metric)) for best, other in told.values()]
            spans = dict(zip(told, intervals(np.asarray(gains), weights, confidence, units), strict=True))
        unknown |= {key: FEW_COPIES for key in told if key not in spans}
    margins = dict.fromkeys(spans, 0.0)
    if noise is not None:
        # The base has no seed: only the best one's counts there.
        margins = {key: noise.margin(confidence, 1 if key == BASE else 2) for key in spans}
        spans = {
            each.key: Interval(
                *widened(each.difference, spans[each.key][:2], margins[each.key]), spans[each.key].carried_by
            )
            for each in pairs
            if each.key in spans
        }
    compared = [_compared(each, spans.get(each.key), unknown[each.key], margins.get(each.key, 0.0)) for each in pairs]
    return Separation(
        rows=rows,
        confidence=confidence,
        trials=tuple(compared[: len(others)]),
        base=compared[-1] if base is not None else None,
        seeds=noise,
        is_grouped=any(each.row_groups for each in known),
        not_compared=ranked - 1 - len(others),
    )


def _compared(other: Other, span: Interval | None, unknown: str, of_seeds: float) -> Compared:
    low, high, carried_by = span if span is not None else (None, None, None)
    return Compared(other.key, other.difference, low, high, unknown, of_seeds, carried_by, other.steps, other.point)


def _unknown(metric: str, known: Sequence[Evaluation], pair: Other) -> str:
    """Why two evaluations cannot be compared row by row; empty when they can. `known` are all of the best trial."""
    best, other = pair.best, pair.evaluation
    if isinstance(best, str):
        return best
    if isinstance(other, str):
        return other
    rows = len(_parts(best, metric))
    if {(each.row_tokens, len(_parts(each, metric))) for each in (other, *known)} != {(best.row_tokens, rows)}:
        return "it was evaluated on other rows"
    if best.hardware != other.hardware:
        return f"it was evaluated on {other.hardware or 'unknown hardware'}, the other on {best.hardware or 'unknown'}"
    if rows < LEAST_ROWS:
        return f"{rows} evaluation row{'s' if rows > 1 else ''}, at least {LEAST_ROWS} are needed for an interval"
    return ""


def _parts(evaluation: Evaluation, metric: str) -> Sequence[float]:
    found = evaluation.rows_of(metric)
    return () if found is None else found[0]


def _units(evaluations: Sequence[Evaluation], rows: int) -> list[int]:
    """As `units_of`: copies are known by their losses, whatever the metric, where all evaluations have these."""
    tokens, groups = evaluations[0].row_tokens, evaluations[0].row_groups
    if any(len(each.row_losses) != rows or len(each.row_tokens) != rows for each in evaluations):
        return units_of(range(rows), [], groups)
    return units_of(tokens, [each.row_losses for each in evaluations], groups)
