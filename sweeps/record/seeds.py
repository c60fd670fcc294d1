"""How far another seed moves a trial's loss, from trials that were trained again (`searcher.repeats`). Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from sweeps.record.events import TrialState
from sweeps.record.sweep_record import TrialRecord


@dataclass(frozen=True)
class SeedNoise:
    """The spread of losses over seeds, pooled over the points that were trained several times."""

    deviation: float
    """Standard deviation of a trial's loss, in the loss's unit."""
    freedom: int
    """Degrees of freedom: trials less points."""
    points: int

    def margin(self, confidence: float, trials: int) -> float:
        """Half the width of the interval that seeds alone give to one trial's loss, or to the difference of two."""
        return student(0.5 + confidence / 2, self.freedom) * self.deviation * math.sqrt(trials)

    def as_json(self) -> dict[str, Any]:
        """Its object in the JSON line."""
        return asdict(self)


def noise(trials: Iterable[TrialRecord], metric: str) -> SeedNoise | None:
    """The noise of a metric; None where no trial was trained again to its end."""
    trials = list(trials)
    groups: dict[str, list[float]] = {}
    for trial in trials:
        if trial.state is TrialState.COMPLETED and math.isfinite(trial.value(metric)):
            groups.setdefault(trial.repeats or trial.trial_key, []).append(trial.value(metric))
    return pooled([losses for losses in groups.values() if len(losses) > 1])


def pooled(groups: Sequence[Sequence[float]]) -> SeedNoise | None:
    """The noise within groups of losses, each of one point; None without a group."""
    freedom = sum(len(group) - 1 for group in groups)
    if freedom == 0:
        return None
    squares = sum((loss - fmean(group)) ** 2 for group in groups for loss in group)
    return SeedNoise(math.sqrt(squares / freedom), freedom, len(groups))


def widened(difference: float, span: tuple[float, float], margin: float) -> tuple[float, float]:
    """An interval over rows that also holds over seeds: both are independent, so half-widths add in squares."""
    low, high = span
    return difference - math.hypot(difference - low, margin), difference + math.hypot(high - difference, margin)


def student(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution."""
    from scipy.special import stdtrit  # takes a quarter of a second, and most commands compare nothing

    return float(stdtrit(freedom, probability))
