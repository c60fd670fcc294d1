"""Median: a trial is stopped when its best value is worse than the median of the others' mean values so far.

The median stopping rule of Google Vizier (Golovin et al., KDD 2017, section 3.2.2), at the report points of ASHA.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import Literal

from sweeps.schedulers import Decision, Direction, Rule, SchedulerSettings

LEAST_TRIALS = 3
"""Trials that must have reported at a point before another one is stopped there (min_samples_required of Ray 2.60)."""


class Median(Rule):
    """Stops a trial whose best value so far is worse than the median of the others' mean values up to that point."""

    def __init__(
        self, points: Sequence[int], direction: Direction = "min", overfit_patience: int | None = None
    ) -> None:
        super().__init__(points, direction, overfit_patience)
        self._means: dict[int, list[float]] = {point: [] for point in self.points}
        """Point -> for each trial that reported there, the mean of its reports up to this point."""

    def _judge(self, name: str, point: int, loss: float) -> Decision:
        if not math.isfinite(loss):
            return Decision.STOP
        trial, others = self._trials[name], self._means[point]
        is_worse = len(others) >= LEAST_TRIALS and trial.best > median(others)
        others.append(fmean(trial.losses))
        return Decision.STOP if is_worse else Decision.GO_ON


class Config(SchedulerSettings):
    """Report points at grace_steps, grace_steps x reduction_factor, ... and at the last step."""

    kind: Literal["median"] = "median"

    def build(self, steps: int, direction: Direction = "min") -> Rule:
        """See `SchedulerSettings.build`."""
        return Median(self.points(steps), direction, self.overfit_patience)
