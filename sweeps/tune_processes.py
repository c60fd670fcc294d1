"""Ray Tune and the processes of trials: a slot keeps its own, one that dies is started again, none is given secrets.

What is changed here in Ray Tune 2.60 has no switch there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial


def keep_processes(scheduler: Any) -> None:
    """Keeps a scheduler from choosing trials that wait for their process.

    Tune gives the trial that the scheduler chooses the first process that is free, and throws away the one that starts
    for it (tune/execution/tune_controller.py, `_maybe_reuse_cached_actor`). Its schedulers choose the oldest trial that
    waits: whenever a trial ends while another's process starts, that process is lost, and the next trial needs one
    more. Left alone, Tune gives a free process to a trial that has none.
    """
    choose = scheduler.choose_trial_to_run

    def chosen(controller: Any) -> Any:
        trial = choose(controller)
        return trial if trial is not None and trial.status == Trial.PAUSED else None

    scheduler.choose_trial_to_run = chosen


@contextmanager
def survived() -> Iterator[None]:
    """While the block runs, a process that Ray's memory monitor ends is started again, like any that dies.

    Without this, Tune gives up the whole experiment: what a call to such a process raises is no RayActorError, and
    Tune's manager of actors takes it for an unexpected exception (air/execution/_internal/actor_manager.py).
    """
    failed = RayActorManager._actor_task_failed

    def told(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=str(exception))
        failed(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = told
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = failed


@contextmanager
def without_secrets() -> Iterator[None]:
    """While the block runs, Tune copies no variable of this process's environment to the processes of trials.

    It would copy AWS credentials among others, and Ray's agent on the trials' node writes what it is given into a log
    that everyone there can read (tune/execution/class_cache.py). Trials need none of them. Without variables of its
    own a trial also takes a process that Ray has started in advance.
    """
    kept, copied = class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = {}, frozenset()
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = kept, copied
