"""Median: a trial is stopped when its best value is worse than the median of the others' mean values so far.

The median stopping rule of Google Vizier (Golovin et al., KDD 2017, section 3.2.2), at the report points of ASHA.
"""

from __future__ import annotations

from typing import Literal

from sweeps.halving.median import Median
from sweeps.halving.rule import Direction, Rule
from sweeps.halving.scheduler_settings import SchedulerSettings


class Config(SchedulerSettings):
    """Report points at grace_steps, grace_steps x reduction_factor, ... and at the last step."""

    kind: Literal["median"] = "median"

    def build(self, steps: int, direction: Direction = "min") -> Rule:
        """See `SchedulerSettings.build`."""
        return Median(self.points(steps), direction, self.overfit_patience)
