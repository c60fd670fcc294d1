"""Ray Tune and Ray's memory monitor: a trial's process that the monitor ends is started again, like any that dies.

Without this, Tune gives up the whole experiment: what a call to such a process raises is no RayActorError, and Tune's
manager of actors takes it for an unexpected exception (ray/air/execution/_internal/actor_manager.py, 2.60).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError


@contextmanager
def survived() -> Iterator[None]:
    """While the block runs, Tune takes what the memory monitor ends for an actor that died."""
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
