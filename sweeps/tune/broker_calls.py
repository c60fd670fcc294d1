"""How a trial's process asks the broker or the folder keeper, and says what went wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError

from cluster.errors import LeaseOver
from cluster.hosts import PROCESS_LOST
from cluster.leases import Grant
from trainables.contract import Failure, Opened
from trainables.inputs.legible import legible

WAIT_SECONDS = 2.0
"""How long one call to a host or the broker lasts at most: a stop is noticed that soon."""
RETRY_SECONDS = 0.5
ANEW_SECONDS = 120.0
"""How long to wait for an actor that died to be made anew."""


class NodeLeaves(Exception):  # noqa: N818 - reads as what happened
    """The node of a trial's process ends soon: Tune starts the trial in another process."""


def ask(actor: Any, method: str, *arguments: Any) -> Any:
    """The actor's answer; while Ray makes one that died anew, asks again."""
    deadline = time.monotonic() + ANEW_SECONDS
    while True:
        try:
            return ray.get(getattr(actor, method).remote(*arguments))
        except PROCESS_LOST:
            if time.monotonic() > deadline:
                raise
            threading.Event().wait(RETRY_SECONDS)


def open_lease(
    granted: Grant, spec: str, snapshot: bytes | None, goes_on: Callable[[], bool]
) -> Opened | Failure | None:
    """Puts a trial into its slot; None when it is to end meanwhile, or when the lease was over before it was opened.

    Raises what a call to a lost host raises.
    """
    opening = granted.host.open.remote(granted.lease, spec, snapshot)
    # Behind a long step it takes long; whoever waits does not lose the lease meanwhile.
    while not ray.wait([opening], timeout=WAIT_SECONDS)[0]:
        if not goes_on():
            return None
    try:
        opened: Opened | Failure = ray.get(opening)
    except LeaseOver:
        threading.Event().wait(RETRY_SECONDS)  # before another is asked for
        return None
    return opened


def tell_lost(asked: Callable[..., Any], host_id: str, error: Exception, is_away: bool) -> bool:
    """Tells the broker of a host that a trial's process cannot reach; whether to ask it again under the same lease.

    Args:
        asked: asks the broker.
        error: what a call to it has raised.
        is_away: whether the process is on another node than the broker.
    """
    # Ray does not know that the process is gone (ray/exceptions.py, 2.60): the network may be at fault for a moment.
    is_unavailable = isinstance(error, ActorUnavailableError)
    if not (is_away or is_unavailable):
        asked("lost", host_id)
        return False
    # Only the way from this node to the host may be cut: other trials train there.
    asked("not_reached", host_id)
    threading.Event().wait(RETRY_SECONDS)
    return is_unavailable and not is_away


def last_words(error: Exception) -> str:
    """The exception's kind and the last line of its text, if it has any."""
    lines = str(error).strip().splitlines()
    return legible(f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__)
