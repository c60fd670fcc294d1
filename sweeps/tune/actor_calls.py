"""How the driver and the processes of trials call Ray's actors, and what they make of an actor that is lost."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import ray

from cluster.hosts import PROCESS_LOST
from sweeps import timeouts

T = TypeVar("T")


class Calls:
    """What is needed of Ray, and of a clock, to call an actor. Tests have others, without Ray."""

    def is_answered(self, asked: Any, seconds: float = 0.0) -> bool:
        """Whether a call is answered; waits for the answer as long as is said."""
        return bool(ray.wait([asked], timeout=seconds)[0])

    def answer(self, asked: Any) -> Any:
        """What a call answers; raises what the call has raised, or one of PROCESS_LOST."""
        return ray.get(asked)

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        """Waits."""
        threading.Event().wait(seconds)


RAY = Calls()


def until_there(call: Callable[[], T], lost: Callable[[], object] = lambda: None, calls: Calls = RAY) -> T:
    """What `call` answers; while Ray makes the actor that died anew, calls again.

    Args:
        lost: called after each loss, before the pause.

    Raises:
        RayActorError, NodeDiedError, OutOfMemoryError: no other actor was made within `timeouts.ANEW_SECONDS`.
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
    """The actor's answer, `until_there`."""
    return until_there(lambda: calls.answer(getattr(actor, method).remote(*arguments)), calls=calls)


class Question:
    """A question that nobody waits for: it is asked, and looked at now and then until its answer is there."""

    def __init__(self, calls: Calls) -> None:
        """Nothing is asked."""
        self._calls = calls
        self._asked: Any = None

    @property
    def is_open(self) -> bool:
        """Whether an answer is owed."""
        return self._asked is not None

    def ask(self, asked: Any) -> None:
        """Asks; `asked` is what an actor's method gave back."""
        self._asked = asked

    def is_answered(self, seconds: float = 0.0) -> bool:
        """Whether the answer is there; waits for the answer as long as is said."""
        return self._asked is not None and self._calls.is_answered(self._asked, seconds)

    def answer(self) -> Any:
        """The answer, once; raises one of PROCESS_LOST where the actor is lost."""
        asked, self._asked = self._asked, None
        return self._calls.answer(asked)

    def forget(self) -> None:
        """Nobody wants the answer any more."""
        self._asked = None


class Repeated:
    """A question to a host that is asked again while there is no host, or no broker."""

    def __init__(self, ask: Callable[[], Any], calls: Calls) -> None:
        """Asks; `ask` gives back what the broker's method gives back."""
        self._ask, self._calls, self._question = ask, calls, Question(calls)
        self._question.ask(ask())
        self._ask_at = 0.0
        """When to ask again, in monotonic seconds."""

    def answer(self, wait_seconds: float = 0.0) -> Any:
        """The answer once it is there, else None; waits for the answer as long as is said."""
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
            return self._question.answer()
        except PROCESS_LOST:
            return None  # The broker is being made anew.
