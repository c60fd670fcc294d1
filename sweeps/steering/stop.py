"""Asks a sweep to end early: for a signal, a used-up budget, or storage that takes no more."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal, NoReturn, TypeVar

from sweeps.record.limits import Reached
from sweeps.report.streams import to_nowhere
from sweeps.steering.mailbox import StopSweep
from trainables.inputs.legible import legible

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SHOW_CURSOR = "\x1b[?25h"
Reason = Literal["interrupted", "budget", "failed"]
T = TypeVar("T")


@dataclass
class StopState:
    """Whether the sweep should end, and why. The first reason stays, unless it is a budget and finalists are scored."""

    reason: Reason | None = None
    message: str = ""
    """The reason in words."""
    can_be_raised: bool = False
    """Whether the reason is a budget that somebody may raise: the trials that it ended may go on."""
    signal: int | None = None
    """The signal that ended the sweep."""
    is_over: bool = False
    """Whether the trials have ended, and only telemetry is being delivered. A signal then ends the delivery."""
    is_scoring: bool = False
    """Whether all trials have ended, and only answers are scored: a person can end the scoring, a budget cannot."""
    is_leaving: bool = False
    """Whether a signal came while telemetry was being delivered: the process does not wait for the rest."""
    limit: Callable[[], Reached | None] = lambda: None
    """Returns the budget of the sweep that is used up, if there is one."""
    was_signalled: bool = False
    """Whether a signal has come: the next signal ends the process at once."""
    is_closed: bool = False
    """Whether nothing was left to train, so that nothing more can be asked for."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Held while a budget is compared and while more is asked for, so that no granted request is passed over."""

    @property
    def is_ending(self) -> bool:
        """Tells whether the training, or the scoring of finalists, should end."""
        return self.reason not in ((None, "budget") if self.is_scoring else (None,))

    @property
    def takes_more(self) -> bool:
        """Tells whether more can be asked for: another point, or a larger budget."""
        return self.reason is None and not self.is_over and not self.is_closed

    def last_call(self, ask: Callable[[], T | None]) -> T | None:
        """Returns the answer of `ask`. If the answer is None, nothing more can be asked for from now on."""
        with self.lock:
            last = ask()
            self.is_closed = last is None
            return last

    def ask(self, reason: Reason, message: str, can_be_raised: bool = False) -> None:
        """Ends the sweep in order, unless it is ending already."""
        if not self.is_ending and not self.is_over:
            self.reason, self.message, self.can_be_raised = reason, legible(message), can_be_raised

    def check(self) -> Reason | None:
        """Returns the reason to end now, if there is one."""
        with self.lock:
            reached = self.limit() if self.reason is None else None
            if reached is not None:
                self.ask("budget", str(reached), reached.can_be_raised)
            return self.reason


def _let_go_of_terminal() -> None:
    """Sends the output of a terminal that is gone to nowhere: a line for it would fail, and end the sweep at once."""
    for stream in (sys.__stdout__, sys.__stderr__):
        # Not isatty: it is false of a terminal that is gone.
        if stream is not None and stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
            to_nowhere(stream.fileno())


@contextmanager
def on_signals(
    stop: StopState, say: Callable[[str], None], post: Callable[[StopSweep], None] = lambda _stop: None
) -> Iterator[None]:
    """Handles signals while the block runs: the first asks to end in order, the second ends the process at once.

    Args:
        post: puts the same request into the mailbox, so that the event log has who asked.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _let_go_of_terminal()
        if stop.was_signalled:
            _end_at_once(number, "qsweep resume goes on with the sweep and closes its runs")
        stop.was_signalled = True
        if stop.is_over:
            stop.is_leaving = True
            say("leaving without waiting for the tracking server")
            return
        if not stop.is_ending:
            stop.ask("interrupted", "interrupted")
            stop.signal = number
            post(StopSweep(sender=signal.Signals(number).name))
        say("stopping: trials are saved at their next step; once more to end at once")

    with _handled_by(handle):
        yield


class Interrupted(KeyboardInterrupt):
    """A signal ended a command that has no trials to save."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """Raises `Interrupted` in the block at the first signal; the second signal ends the process at once."""
    heard = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal heard
        if number == signal.SIGHUP:
            _let_go_of_terminal()
        if heard:
            _end_at_once(number, "the same command goes on")
        heard = True
        raise Interrupted(number)

    with _handled_by(handle):
        yield


@contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    # nohup ignores SIGHUP, so that the terminal may go.
    heard = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_at_once(number: int, way_out: str) -> NoReturn:
    # A live table has hidden the cursor, and nothing else will show it again.
    cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
    # One write, with its end of line: a stream that was interrupted in a write loses the rest of earlier writes.
    sys.stderr.write(f"{cursor}ended at once; {way_out}\n")
    sys.stderr.flush()
    os._exit(128 + number)
