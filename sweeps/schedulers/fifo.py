"""FIFO: every trial runs to its last step; reports come at the same points as under ASHA.

The yardstick for early stopping: what it saves, and whether it stops the right ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from sweeps.halving.rungs import rungs
from trainables.specs import MOST, Spec


class Config(Spec):
    """Report points at grace_steps, grace_steps x reduction_factor, ... and at the last step."""

    kind: Literal["fifo"] = "fifo"
    grace_steps: Annotated[int, Field(ge=1, le=MOST)] = 3
    """The first report point."""
    reduction_factor: Annotated[int, Field(ge=2, le=MOST)] = 3
    """Each report point is so many times the one before."""

    def points(self, steps: int) -> tuple[int, ...]:
        """The report points."""
        return rungs(self.grace_steps, self.reduction_factor, steps)

    def build(self, steps: int, spares_first: bool = False) -> Any:
        """Ray's FIFOScheduler."""
        from ray.tune.schedulers import FIFOScheduler

        return FIFOScheduler()

    def replay(self, scheduler: Any, reports: Iterable[tuple[str, int, float]]) -> set[str]:
        """Nothing to remember: no trial is ever stopped."""
        return set()

    def expected_steps(self, steps: int, trials: int, slots: int) -> int:
        """All of them."""
        return steps * trials
