"""ASHA: at each rung, trials below the best 1/reduction_factor of those seen there so far are stopped.

Asynchronous successive halving (Li et al., MLSys 2020, arXiv 1810.05934) in the stopping form of Ray's ASHAScheduler:
a trial is never paused, the first one at a rung always goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import Field

from sweeps.halving.rungs import asha_steps, rungs
from trainables.specs import MOST, Spec


class Config(Spec):
    """Rungs at grace_steps, grace_steps x reduction_factor, ... and at the last step."""

    kind: Literal["asha"] = "asha"
    grace_steps: Annotated[int, Field(ge=1, le=MOST)] = 3
    """Steps that every trial gets."""
    reduction_factor: Annotated[int, Field(ge=2, le=MOST)] = 3
    """One of so many goes on at each rung."""

    def points(self, steps: int) -> tuple[int, ...]:
        """The rungs."""
        return rungs(self.grace_steps, self.reduction_factor, steps)

    def build(self, steps: int, spares_first: bool = False) -> Any:
        """Ray's ASHAScheduler with exactly these rungs."""
        from ray.tune.schedulers import ASHAScheduler

        class Sparing(ASHAScheduler):
            def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
                judged = trial.config.get("reported", {}).get("step", 0)
                if result.get("step", steps) <= judged and not result.get("done"):
                    # Judged there under an earlier driver (see `replay`): its snapshot was lost, and it comes again.
                    return str(self.CONTINUE)
                decision: str = super().on_trial_result(tune_controller, trial, result)
                spared = spares_first and trial.config.get("number") == 0 and result.get("step", steps) < steps
                return self.CONTINUE if spared and not result.get("done") else decision

        scheduler = Sparing(
            time_attr="step",
            grace_period=min(self.grace_steps, steps),
            reduction_factor=self.reduction_factor,
            max_t=steps,
        )
        # Ray computes its rungs by a floating-point logarithm that can lose the top one (async_hyperband.py, 2.60).
        for bracket in scheduler._brackets:
            bracket._rungs = [(point, {}) for point in reversed(self.points(steps)[:-1])]
        return scheduler

    def replay(self, scheduler: Any, reports: Iterable[tuple[str, int, float]]) -> set[str]:
        """Fills the rungs, which Ray saves nowhere (ray#30838), by playing the reports in the order they came."""
        stopped: dict[str, bool] = {}
        bracket = scheduler._brackets[0]
        for trial_key, step, loss in reports:
            # Ray's bracket knows a trial by its id and takes a reward: higher is better.
            action = bracket.on_result(SimpleNamespace(trial_id=trial_key), step, -loss)
            stopped[trial_key] = action == "STOP"
        return {trial_key for trial_key, was_stopped in stopped.items() if was_stopped}

    def expected_steps(self, steps: int, trials: int, slots: int) -> int:
        """From playing Ray's rule with trials that arrive in random order."""
        return asha_steps(self.points(steps), self.reduction_factor, trials).expected
