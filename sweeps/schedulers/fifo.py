"""FIFO: every trial runs to its last step; reports come at the same points as under ASHA.

FIFO is the yardstick for early stopping: how much it saves, and whether it stops the right trials.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from sweeps.schedulers import Decision, Direction, Rule, SchedulerSettings


class Fifo(Rule):
    """Every trial goes on to the last point."""

    def _judge(self, name: str, point: int, loss: float) -> Decision:
        return Decision.GO_ON


class Config(SchedulerSettings):
    """Report points at grace_steps, grace_steps x reduction_factor, ... and at the last step."""

    kind: Literal["fifo"] = "fifo"
    compares: ClassVar[bool] = False

    def build(self, steps: int, direction: Direction = "min") -> Rule:
        """See `SchedulerSettings.build`."""
        return Fifo(self.points(steps), direction, self.overfit_patience)
