"""Ray's part of a sweep runs in a thread of its own: the driver goes on without it when Ray is gone.

Calls into Ray do not come back for a minute or more once its head service has died, and no signal is heard meanwhile.
What is left to do then needs no Ray: the journal, the tracking server, the closing answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from sweeps import timeouts
from sweeps.errors import RayGone
from sweeps.steering.stop import StopState

LOST = "Ray's daemons are gone"
SILENT = "Ray does not answer"
STARTING = "Ray had not started yet: nothing was trained"
GO_ON = "trials go on from their last snapshots"
LEFT_BEHIND = "Ray does not end: it is left behind; no trial was running any more"


class Ray(Protocol):
    """See `cluster.connect.Cluster`."""

    has_started: bool
    is_ending: bool
    patience_seconds: float

    def is_lost(self) -> bool:
        """Whether Ray is gone."""

    def abandon(self) -> None:
        """Ends what was started of it."""


def supervise(
    work: Callable[[], None],
    ray: Ray,
    stop: StopState,
    look: Callable[[], None],
    are_trials_over: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> str | None:
    """Runs `work` in another thread; raises what it raises. Returns what to say when Ray alone has not ended.

    Args:
        work: what needs Ray.
        stop: whether the sweep was asked to end.
        look: called several times a second meanwhile, in the caller's thread.
        are_trials_over: whether nothing is left to do but to end Ray; then that Ray is gone changes nothing.
        clock: seconds.

    Raises:
        RayGone: Ray is gone or does not answer. `work` may wait for it for ever, and is left behind.
    """
    done: Future[None] = Future()
    thread = threading.Thread(target=_carry_out, args=(work, done), name="ray", daemon=True)
    thread.start()
    lasting = _Lasting(clock)
    while thread.is_alive():
        thread.join(timeouts.SUPERVISION_SECONDS)
        look()
        hopeless = _hopeless(ray, stop, lasting)
        if hopeless is not None and thread.is_alive():
            ray.abandon()
            if are_trials_over():
                return LEFT_BEHIND
            raise RayGone(f"{hopeless}: {GO_ON}" if ray.has_started else STARTING)
    try:
        done.result()
    except Exception as error:
        if not ray.is_lost():
            raise
        if are_trials_over():
            return LEFT_BEHIND
        raise RayGone(f"{LOST}: {GO_ON}") from error
    return None


def _hopeless(ray: Ray, stop: StopState, lasting: _Lasting) -> str | None:
    """Why nobody should wait for Ray any longer; None while there is hope."""
    # Never at once: the signal that ended Ray may be on its way to this process too.
    if lasting.longer("lost", ray.is_lost(), ray.patience_seconds):
        return LOST
    stop_seconds = timeouts.STOP_SECONDS if ray.has_started else timeouts.START_STOP_SECONDS
    if lasting.longer("asked to end", stop.ends, stop_seconds):
        return SILENT
    return SILENT if lasting.longer("ending", ray.is_ending, timeouts.RAY_END_SECONDS) else None


def _carry_out(work: Callable[[], None], done: Future[None]) -> None:
    try:
        work()
        done.set_result(None)
    except BaseException as error:
        done.set_exception(error)


class _Lasting:
    """For how long something has been so."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def longer(self, what: str, is_so: bool, seconds: float) -> bool:
        """Whether it has been so for longer than this, each time that it was asked."""
        if not is_so:
            self._since.pop(what, None)
            return False
        return self._clock() - self._since.setdefault(what, self._clock()) > seconds
