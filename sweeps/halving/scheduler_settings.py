"""What a sweep file says of every scheduler: when trials report, and whether one that overfits ends itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sweeps.halving.rungs import rungs
from trainables.specs import MOST, Spec


class Settings(Spec):
    """Report points at grace_steps, grace_steps x reduction_factor, ... and at the last step."""

    grace_steps: Annotated[int, Field(ge=1, le=MOST)] = 3
    """Steps that every trial gets: the first report point."""
    reduction_factor: Annotated[int, Field(ge=2, le=MOST)] = 3
    """Each report point is so many times the one before; under ASHA one of so many trials goes on there."""
    overfit_patience: Annotated[int, Field(ge=1, le=MOST)] | None = None
    """A trial ends itself after so many reports in a row that are worse than its best one, and keeps the adapter of
    that one (ALTO, arXiv 2604.05426). Left out: never."""

    @property
    def parks(self) -> bool:
        """See `SchedulerConfig.parks`."""
        return False

    def most_steps(self, steps: int, trials: int, slots: int, protects_first: bool = False) -> int:
        """See `SchedulerConfig.most_steps`: no trial is stopped early."""
        return steps * trials

    def needs_tail(self, steps: int, trials: int) -> bool:
        """See `SchedulerConfig.needs_tail`."""
        return False

    def points(self, steps: int) -> tuple[int, ...]:
        """The report points."""
        return rungs(self.grace_steps, self.reduction_factor, steps)
