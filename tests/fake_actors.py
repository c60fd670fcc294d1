"""Actors that are no Ray actors, and calls to them: what a method gives back is its answer, an error is raised."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from sweeps.tune.actor_calls import Calls

NEVER = object()
"""The answer that does not come."""
NONE = object()
"""The answer None: a call is open until it is answered, and None is no call."""


class FakeCalls(Calls):
    """Calls without Ray, with a clock of their own."""

    def __init__(self) -> None:
        self.time = 0.0
        self.each_wait: Callable[[], object] = lambda: None
        """Called while an answer is waited for in vain."""

    def is_answered(self, asked: Any, seconds: float = 0.0) -> bool:
        if asked is not NEVER:
            return True
        self.time += seconds
        assert self.time < 1000.0, "it waits without end"
        self.each_wait()
        return False

    def answer(self, asked: Any) -> Any:
        if isinstance(asked, Exception):
            raise asked
        return None if asked is NONE else asked

    def now(self) -> float:
        return self.time

    def pause(self, seconds: float) -> None:
        self.time += seconds


def actor(**methods: Callable[..., Any]) -> Any:
    """The handle of an actor that has these methods."""
    return SimpleNamespace(**{name: SimpleNamespace(remote=method) for name, method in methods.items()})
