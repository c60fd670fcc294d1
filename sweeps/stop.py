"""How a sweep is asked to end early: a signal from a person or a scheduler, or a budget that is used up."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class StopRequest:
    """Whether the sweep should end, and why."""

    deadline: float | None
    """Time on `clock` at which the budget is used up."""
    clock: Callable[[], float]
    reason: Literal["interrupted", "budget"] | None = None
    signal: int | None = None
    """The signal that asked."""

    def check(self) -> Literal["interrupted", "budget"] | None:
        """The reason to end now, if there is one; the first one stays."""
        if self.reason is None and self.deadline is not None and self.clock() >= self.deadline:
            self.reason = "budget"
        return self.reason


@contextmanager
def on_signals(request: StopRequest, say: Callable[[str], None]) -> Iterator[None]:
    """While the block runs: the first signal asks to end in order, the second ends the process at once."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if request.signal is not None:
            os._exit(128 + number)
        request.reason, request.signal = "interrupted", number
        say("stopping: trials end at their next step; once more to end at once")

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
