"""A sweep's rule as Ray Tune's scheduler.

A trial that is parked ends for Tune, and is another of Tune's trials when it is resumed (see `trial_queue`): what it
goes on from is in the sweep's folder. Tune's own PAUSED would keep a trial's place: Tune's limiters count it as live,
Tune writes checkpoints of it, and starts all of them again after a restart (tune/execution/tune_controller.py, 2.60).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from sweeps.schedulers import Rule, Standing


class RuleScheduler(FIFOScheduler):
    """Ends a trial in Tune when its rule stops or parks it."""

    def __init__(self, rule: Rule, tell: Callable[[Trial, dict[str, Any]], bool]) -> None:
        """A scheduler.

        Args:
            rule: decides. It is told of reports by whoever listens to the journal.
            tell: takes a result into the journal, which `rule` then knows of, and answers whether it could. Tune asks
                its scheduler before it calls back anyone.
        """
        super().__init__()
        self._rule = rule
        self._tell = tell

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether the trial goes on after its report."""
        if not self._tell(trial, result):
            # The trial's snapshot still has the report. The next one would not.
            return str(self.STOP)
        if trial.config.get("repeats") is not None:
            return str(self.CONTINUE)  # It is compared with its own point alone, and trained to its end.
        is_over = "report" in result and self._rule.standing(trial.config["trial_key"]) is not Standing.RUNNING
        return str(self.STOP if is_over else self.CONTINUE)

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None: Tune gives a free process to a trial that has none.

        It gives the trial that its scheduler chooses the first process that is free, and throws away the one that
        starts for it (`_maybe_reuse_cached_actor`). Its own schedulers choose the oldest trial that waits: whenever a
        trial ends while another's process starts, that process is lost, and the next trial needs one more.
        """
