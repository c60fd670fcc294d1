"""A thread that delivers what a sweep writes to a place that may be away. Training never waits for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

TURN_SECONDS = 0.2
"""Seconds of one wait for the thread. A signal does not end `Thread.join`, so `drain` waits in short turns."""


class Over(Exception):  # noqa: N818 - reads as what happened
    """Raised when nothing more is to be delivered: the thread then ends without a message."""


@dataclass(frozen=True)
class RetryPace:
    """Pauses of a delivery, in seconds."""

    every: float | None
    """Pause between two deliveries without a call of `notify`; None delivers only after `notify`."""
    first_pause: float
    """Pause after a first failed delivery. Each further pause is twice as long."""
    longest_pause: float
    patience: float
    """Wait after which a drain says that it waits."""


class Delivery:
    """Delivers repeatedly, in its own thread, until it is drained."""

    def __init__(
        self, name: str, deliver: Callable[[], None], failed: Callable[[Exception], None], pace: RetryPace
    ) -> None:
        """Delivers nothing yet.

        Args:
            deliver: delivers everything new. It may raise any error: an outage delays deliveries and ends no sweep.
            failed: takes the error of `deliver`, in the thread. Both may raise `Over`.
        """
        self._deliver, self._failed, self._pace = deliver, failed, pace
        self._changed = threading.Condition()
        self._has_begun, self._has_news, self._is_closing = False, True, False
        self.is_done = False
        """Whether everything was delivered after the drain began."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_busy(self) -> bool:
        """Tells whether the thread still runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begins to deliver, unless it has begun."""
        with self._changed:
            if self._has_begun:
                return
            self._has_begun = True
        self._thread.start()

    def notify(self) -> None:
        """Tells the thread that there is something new to deliver."""
        with self._changed:
            self._has_news = True
            self._changed.notify_all()

    def drain(
        self,
        seconds: float,
        is_leaving: Callable[[], bool],
        say_waiting: Callable[[], None],
        reached: Callable[[], int] = lambda: 0,
    ) -> bool:
        """Waits until all is delivered, the caller leaves, or `seconds` are over. Returns whether they are over.

        Args:
            say_waiting: is called once, after `RetryPace.patience`.
            reached: measures progress, with which `seconds` begin anew. By default they limit the whole wait.
        """
        with self._changed:
            self._is_closing = self._has_news = True
            self._changed.notify_all()
        before, since = reached(), time.monotonic()
        told_at = since + self._pace.patience
        while self._thread.is_alive() and not is_leaving():
            now = time.monotonic()
            if reached() != before:
                before, since = reached(), now
            if now - since >= seconds:
                return True
            if now >= told_at:
                told_at = math.inf
                say_waiting()
            self._thread.join(min(since + seconds - now, TURN_SECONDS))
        return False

    def _run(self) -> None:
        pause = self._pace.first_pause
        try:
            while not self.is_done:
                with self._changed:
                    self._changed.wait_for(lambda: self._has_news, self._pace.every)
                    self._has_news = False
                    closing = self._is_closing
                if self._succeeds():
                    pause, self.is_done = self._pace.first_pause, closing
                    continue
                with self._changed:
                    self._has_news = True
                    # When a drain begins, the thread tries again at once.
                    self._changed.wait_for(partial(self._begins_to_close, closing), pause)
                pause = min(2 * pause, self._pace.longest_pause)
        except Over:
            return

    def _succeeds(self) -> bool:
        try:
            self._deliver()
        except Over:
            raise
        except Exception as error:
            self._failed(error)
            return False
        return True

    def _begins_to_close(self, was_closing: bool) -> bool:
        return self._is_closing and not was_closing
