"""Ray Tune and the processes of trials: a slot keeps its own, one that dies is started again, Tune gives none secrets.

What is changed here in Ray Tune 2.60 has no switch there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

DEATHS = 3
"""So many deaths of a trial's process in a row, with nothing saved in between, end the trial."""


class Deaths:
    """How often trials' own processes died. The loss of a host or a node is none: those processes live on the head."""

    def __init__(self, saved: Callable[[str], object]) -> None:
        """None so far; `saved` says what the trial of a key would go on from now."""
        self._saved = saved
        self._known: dict[str, tuple[object, int]] = {}

    def may_go_on(self, trial_key: str) -> bool:
        """Whether the trial gets another process after this death."""
        saved = self._saved(trial_key)
        before, count = self._known.get(trial_key, (saved, 0))
        self._known[trial_key] = saved, count + 1 if saved == before else 1
        return self._known[trial_key][1] < DEATHS


@contextmanager
def survived(deaths: Deaths) -> Iterator[None]:
    """While the block runs, a trial whose process dies gets another, also when Ray's memory monitor ended it.

    Tune would count deaths over the whole trial. And it would give up the experiment after one by the memory monitor:
    what a call to such a process raises is no RayActorError, and Tune's manager of actors takes it for an unexpected
    exception (air/execution/_internal/actor_manager.py).

    And it would give up, or forget for ever, a trial that it gives a process which has died while it was kept for the
    next trial. Of such a death Tune tells itself twice, the second time of a trial that waits again, and the trial
    stays among those that are being given a process (tune/execution/tune_controller.py).
    """
    failed, recovers = RayActorManager._actor_task_failed, Trial.should_recover
    trial_failed = TuneController._trial_task_failure

    def told(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=str(exception))
        failed(self, tracked_actor_task, exception)

    def told_once(self: TuneController, trial: Trial, exception: Exception) -> None:
        self._resetting_trials.discard(trial)
        if trial.status != Trial.PENDING or trial in self._trial_to_actor:
            trial_failed(self, trial, exception)

    RayActorManager._actor_task_failed = told
    TuneController._trial_task_failure = told_once
    Trial.should_recover = lambda trial: deaths.may_go_on(trial.config["trial_key"])
    try:
        yield
    finally:
        RayActorManager._actor_task_failed, Trial.should_recover = failed, recovers
        TuneController._trial_task_failure = trial_failed


@contextmanager
def without_secrets() -> Iterator[None]:
    """While the block runs, Tune copies no variable of this process's environment to the processes of trials.

    It would copy AWS credentials among others, and Ray's agent on the trials' node writes what it is given into a log
    that everyone there can read (tune/execution/class_cache.py). Trials need none of them. What Ray's own daemons have
    in their environment they do have: for a Ray that the sweep starts see `cluster.connect`. Without variables of its
    own a trial also takes a process that Ray has started in advance.
    """
    kept, copied = class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = {}, frozenset()
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = kept, copied
