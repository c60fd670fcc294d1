"""What a sweep file says of every scheduler, and what a module in `schedulers/` offers as its `Config`."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated

from pydantic import Field

from sweeps.halving.rule import Direction, Rule
from sweeps.halving.rungs import rungs
from trainables.specs import MOST, Spec


class SchedulerSettings(Spec):
    """Report points at grace_steps, grace_steps x reduction_factor, ... and at the last step."""

    grace_steps: Annotated[int, Field(ge=1, le=MOST)] = 3
    """Steps that every trial gets: the first report point."""
    reduction_factor: Annotated[int, Field(ge=2, le=MOST)] = 3
    """Each report point is so many times the one before; under ASHA one of so many trials goes on there."""
    overfit_patience: Annotated[int, Field(ge=1, le=MOST)] | None = None
    """A trial ends itself after so many reports in a row that are worse than its best one, and keeps the adapter of
    that one (ALTO, arXiv 2604.05426). Left out: never."""
    kind: str

    @property
    def compares(self) -> bool:
        """Whether trials are compared at the report points: which of them go on depends on what others reported."""
        return True

    @property
    def parks(self) -> bool:
        """Whether trials may be parked at a report point and resumed later."""
        return False

    def points(self, steps: int) -> tuple[int, ...]:
        """Steps at which each trial reports; the last one is `steps`."""
        return rungs(self.grace_steps, self.reduction_factor, steps)

    @abstractmethod
    def build(self, steps: int, direction: Direction = "min") -> Rule:
        """The rule for reports at these points, which has seen nothing.

        Args:
            steps: of a trial that is not stopped.
            direction: whether a lower or a higher value of the metric is better.
        """

    def most_steps(self, steps: int, trials: int, slots: int, protects_first: bool = False) -> int:
        """Optimizer steps that the whole sweep takes at most.

        Args:
            steps: of a trial that is not stopped.
            slots: how many of them train at once.
            protects_first: one of them is trained to its end whatever it reports.
        """
        return steps * trials

    def needs_tail(self, steps: int, trials: int) -> bool:
        """Whether a trial reaches the last step only because the best one goes on beyond what its rank allows."""
        return False
