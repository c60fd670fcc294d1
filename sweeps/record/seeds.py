"""How far another seed moves a trial's loss, from trials that were trained again (`searcher.repeats`). Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean
from typing import Any

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
        if trial.state.is_ranked and math.isfinite(trial.value(metric)):
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
    """The quantile of Student's t distribution for a probability in (.5, 1).

    Exact for one and two degrees of freedom; else the expansion of Abramowitz and Stegun, Handbook of Mathematical
    Functions, 26.7.5, cut after its fourth term: within 2 % up to a probability of .995.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return float((2 * probability - 1) * math.sqrt(0.5 / (probability * (1 - probability))))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))
