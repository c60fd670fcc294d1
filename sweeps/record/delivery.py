"""A thread that delivers what a sweep writes to a place that may be away. Training never waits for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

TURN_SECONDS = 0.2
"""A wait for the thread is cut into turns: a signal does not end the wait for a thread."""


class Over(Exception):  # noqa: N818 - reads as what happened
    """Nobody is to be served any more: the thread ends without a word."""


@dataclass(frozen=True)
class Pace:
    """How often a delivery tries, in seconds."""

    every: float | None
    """Between two deliveries of which nobody has given notice; None: there are none."""
    first_pause: float
    """After a delivery that failed; each further pause is twice as long."""
    longest_pause: float
    patience: float
    """After so long, a drain says that it waits."""


class Delivery:
    """Delivers again and again, in a thread of its own, until it is drained."""

    def __init__(self, name: str, deliver: Callable[[], None], failed: Callable[[Exception], None], pace: Pace) -> None:
        """A delivery that has not begun.

        Args:
            name: of the thread.
            deliver: delivers all that there is. May raise anything: an outage costs delay, not the sweep.
            failed: is told what `deliver` raised, in the thread. Either may raise `Over`.
        """
        self._deliver, self._failed, self._pace = deliver, failed, pace
        self._changed = threading.Condition()
        self._has_begun, self._has_news, self._is_closing = False, True, False
        self.is_done = False
        """Whether all was delivered once the drain had begun."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_busy(self) -> bool:
        """Whether the thread is still at work, or waits for an answer."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begins to deliver, unless it has begun."""
        with self._changed:
            if self._has_begun:
                return
            self._has_begun = True
        self._thread.start()

    def notify(self) -> None:
        """There is something new."""
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
        """Waits until all is delivered, the caller leaves, or nothing was for `seconds`. Returns whether they are over.

        Args:
            say_waiting: is called once, after `Pace.patience`.
            reached: how much is delivered. The seconds begin anew when that has changed; else they are for all.
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
                    # A drain that begins wants one more try at once.
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
