"""Runs Ray's part of a sweep in a thread of its own, so that the driver can end the sweep when Ray is gone.

Once Ray's head service has died, calls into Ray do not return for a minute or more, and Python handles no signal
meanwhile. The rest of the sweep needs no Ray: the journal, the tracking server, the closing lines.
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
        """Tells whether Ray's daemons are gone."""

    def abandon(self) -> None:
        """Kills what this process started of Ray."""


def supervise(
    work: Callable[[], None],
    ray: Ray,
    stop: StopState,
    look: Callable[[], None],
    are_trials_over: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> str | None:
    """Runs `work` in another thread and raises its errors. Returns a line to show if only Ray's own end has failed.

    Args:
        work: the part of the sweep that needs Ray.
        stop: tells whether the sweep was asked to end.
        look: called several times a second in the caller's thread, while `work` runs.
        are_trials_over: tells whether only Ray's own end is left; the loss of Ray is no error then.
        clock: returns seconds.

    Raises:
        RayGone: Ray is gone or does not answer. The thread of `work` may wait for Ray for ever, and is left behind.
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
    """Returns why Ray is given up; None while Ray may still answer."""
    # A short wait is needed: the signal that ended Ray may reach this process a moment later.
    if lasting.longer("lost", ray.is_lost(), ray.patience_seconds):
        return LOST
    stop_seconds = timeouts.STOP_SECONDS if ray.has_started else timeouts.START_STOP_SECONDS
    if lasting.longer("asked to end", stop.is_ending, stop_seconds):
        return SILENT
    return SILENT if lasting.longer("ending", ray.is_ending, timeouts.RAY_END_SECONDS) else None


def _carry_out(work: Callable[[], None], done: Future[None]) -> None:
    try:
        work()
        done.set_result(None)
    except BaseException as error:
        done.set_exception(error)


class _Lasting:
    """Measures how long conditions have held without a break."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def longer(self, what: str, is_so: bool, seconds: float) -> bool:
        """Tells whether the condition `what` has held in every call for longer than `seconds`."""
        if not is_so:
            self._since.pop(what, None)
            return False
        return self._clock() - self._since.setdefault(what, self._clock()) > seconds
