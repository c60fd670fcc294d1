"""FIFO: every trial runs to its last step; reports come at the same points as under ASHA.

The yardstick for early stopping: what it saves, and whether it stops the right ones.
"""

from __future__ import annotations

from typing import Literal

from sweeps.halving.fifo import Fifo
from sweeps.halving.rule import Direction, Rule
from sweeps.halving.scheduler_settings import SchedulerSettings


class Config(SchedulerSettings):
    """Report points at grace_steps, grace_steps x reduction_factor, ... and at the last step."""

    kind: Literal["fifo"] = "fifo"

    @property
    def compares(self) -> bool:
        """See `SchedulerSettings.compares`."""
        return False

    def build(self, steps: int, direction: Direction = "min") -> Rule:
        """See `SchedulerSettings.build`."""
        return Fifo(self.points(steps), direction, self.overfit_patience)
