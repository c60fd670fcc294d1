"""Calls Ray's actors from the driver and from trial processes, also while a lost actor restarts."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray

from cluster.hosts import PROCESS_LOST
from sweeps import timeouts
from trainables.contract import Failure

T = TypeVar("T")


class Calls:
    """The functions of Ray and of a clock that calling an actor needs. Tests replace them."""

    def is_answered(self, asked: Any, seconds: float = 0.0) -> bool:
        """Tells whether a call is answered; waits `seconds` for the answer."""
        return bool(ray.wait([asked], timeout=seconds)[0])

    def answer(self, asked: Any) -> Any:
        """Returns the answer of a call; raises the error of the call, or one of PROCESS_LOST."""
        return ray.get(asked)

    def now(self) -> float:
        """Returns monotonic seconds."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Waits."""
        threading.Event().wait(seconds)


RAY = Calls()


def until_there(call: Callable[[], T], lost: Callable[[], object] = lambda: None, calls: Calls = RAY) -> T:
    """Returns what `call` returns; calls again while Ray restarts an actor that died.

    Args:
        lost: called after each loss, before the pause.

    Raises:
        RayActorError, NodeDiedError, OutOfMemoryError: the actor was not back within `timeouts.ANEW_SECONDS`.
    """
    deadline = math.inf
    while True:
        try:
            return call()
        except PROCESS_LOST:
            lost()
            deadline = min(deadline, calls.now() + timeouts.ANEW_SECONDS)
            if calls.now() >= deadline:
                raise
            calls.pause(timeouts.RETRY_SECONDS)


def ask(actor: Any, method: str, *arguments: Any, calls: Calls = RAY) -> Any:
    """Returns the answer of an actor's method; see `until_there`."""
    return until_there(lambda: calls.answer(getattr(actor, method).remote(*arguments)), calls=calls)


class OpenCall:
    """A call that nobody waits for: the caller looks now and then whether the answer is there."""

    def __init__(self, calls: Calls) -> None:
        """Starts without an open call."""
        self._calls = calls
        self._asked: Any = None

    @property
    def is_open(self) -> bool:
        """Tells whether a call is open."""
        return self._asked is not None

    def ask(self, asked: Any) -> None:
        """Keeps a call; `asked` is the result of a method's `remote`."""
        self._asked = asked

    def is_answered(self, seconds: float = 0.0) -> bool:
        """Tells whether the answer is there; waits `seconds` for the answer."""
        return self._asked is not None and self._calls.is_answered(self._asked, seconds)

    def answer(self) -> Any:
        """Returns the answer, once; raises one of PROCESS_LOST if the actor is lost."""
        asked, self._asked = self._asked, None
        return self._calls.answer(asked)

    def forget(self) -> None:
        """Drops the open call."""
        self._asked = None


class Repeated:
    """A call to a host that is repeated while there is no host or no broker."""

    def __init__(self, ask: Callable[[], Any], calls: Calls) -> None:
        """Makes the first call; `ask` returns the result of a method's `remote`."""
        self._ask, self._calls, self._question = ask, calls, OpenCall(calls)
        self._question.ask(ask())
        self._ask_at = 0.0
        """Monotonic seconds of the next call."""
        self._without_host = 0.0
        """Seconds for which callers that wait have found no host."""

    def answer(self, wait_seconds: float = 0.0) -> Any:
        """Returns the answer, or None if it is not there; waits `wait_seconds` for the answer.

        A caller that waits has nothing else to do. It gets a Failure after `timeouts.NO_HOST_SECONDS` without a host.
        """
        if not self._question.is_open:
            left = self._ask_at - self._calls.now()
            if left > 0:
                self._calls.pause(min(left, wait_seconds))
                return None
            self._question.ask(self._ask())
        if not self._question.is_answered(wait_seconds):
            return None
        self._ask_at = self._calls.now() + timeouts.BASE_AGAIN_SECONDS
        try:
            answer = self._question.answer()
        except PROCESS_LOST:
            answer = None  # Ray restarts the broker.
        if answer is None and wait_seconds > 0:
            self._without_host += timeouts.BASE_AGAIN_SECONDS
            if self._without_host > timeouts.NO_HOST_SECONDS:
                words = f"no host was there for {timeouts.NO_HOST_SECONDS / 60:.0f} minutes"
                answer = Failure(kind="failed", message=words)
        return answer
