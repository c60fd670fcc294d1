"""ASHA: at each rung one of reduction_factor trials goes on; the others wait there (promote) or are stopped (stop).

Asynchronous successive halving (Li et al., MLSys 2020, arXiv 1810.05934). `promote` is the paper's form, `stop` that of
Ray's AsyncHyperBandScheduler.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from sweeps.halving.asha_promote import Order, Promote
from sweeps.halving.asha_stop import Stop
from sweeps.halving.promotion_cost import has_tail, most_steps
from sweeps.halving.rule import Direction, Rule
from sweeps.halving.scheduler_settings import SchedulerSettings


class Config(SchedulerSettings):
    """Rungs at grace_steps, grace_steps x reduction_factor, ... and at the last step."""

    kind: Literal["asha"] = "asha"
    variant: Literal["promote", "stop"] = "promote"
    """promote: a trial is parked at each rung, and resumed when it is among the best 1/reduction_factor there.
    stop: a trial is judged once, when it comes to a rung, by those that were there before it."""
    order: Order = "breadth"
    """What a free slot is for, under promote. breadth: new trials first, then the lowest rung. paper: the highest rung
    first, then new trials, so that a trial reaches the last step early."""

    @model_validator(mode="after")
    def _order_is_for_promote(self) -> Self:
        if self.variant == "stop" and self.order != "breadth":
            raise ValueError(f"order: {self.order} is for variant promote: leave it out, or set variant: promote")
        return self

    @property
    def parks(self) -> bool:
        """See `SchedulerSettings.parks`."""
        return self.variant == "promote"

    def build(self, steps: int, direction: Direction = "min") -> Rule:
        """See `SchedulerSettings.build`."""
        points = self.points(steps)
        if self.variant == "stop":
            return Stop(points, self.reduction_factor, direction, self.overfit_patience)
        return Promote(points, self.reduction_factor, self.order, direction, self.overfit_patience)

    def most_steps(self, steps: int, trials: int, slots: int, protects_first: bool = False) -> int:
        """See `SchedulerSettings.most_steps`. `promote` in the order `breadth` takes so many on one slot."""
        if self.variant == "promote" and self.order == "breadth":
            return most_steps(self.points(steps), self.reduction_factor, trials, slots, protects_first)
        return super().most_steps(steps, trials, slots, protects_first)

    def needs_tail(self, steps: int, trials: int) -> bool:
        """See `SchedulerSettings.needs_tail`."""
        return self.parks and has_tail(trials, len(self.points(steps)), self.reduction_factor)
