"""What a driver does between the steps of Ray Tune: it ends trials and the sweep as asked, and tells what hosts do."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray.exceptions import ActorUnavailableError
from ray.tune import Stopper

from cluster.hosts import PROCESS_LOST
from sweeps.planning.number_words import counted
from sweeps.report.progress import Display
from sweeps.steering.stop import StopState
from sweeps.tune.base_evaluation import BaseEvaluation
from sweeps.tune.trial_queue import TrialQueue

if TYPE_CHECKING:
    from sweeps.tune.driver import Driver

LEAVE_SECONDS = 120.0
"""How long trials have to end their step and save themselves when the sweep is asked to end."""
STEPS_SECONDS = 2.0
"""Pause between questions for the steps that trials have taken."""
COUNT_SECONDS = 5.0
"""Pause between questions for the number of hosts: no line tells that one begins to load, or has left."""
NEWS_SECONDS = 30.0
"""How long one question for news of the hosts waits."""
LOST = "the broker is lost: another is made, and trials lease again"
AWAY = "the broker is lost, or out of reach for a moment: when another is made, trials lease again"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
"""Pauses between two questions to a broker that is lost: each is twice as long as the one before."""


class Watch(Stopper):
    """Looks after the sweep between Tune's steps: ends it when someone asked for that, and says what hosts do."""

    def __init__(
        self,
        stop: StopState,
        broker: Any,
        queue: TrialQueue,
        display: Display,
        base: BaseEvaluation | None,
        driver: Driver,
    ) -> None:
        self._stop = stop
        self._broker = broker
        self._queue = queue
        self._display = display
        self._base = base
        self._driver = driver
        self._told_to_stop: frozenset[str] = frozenset()
        """The trials that the broker was told to stop."""
        self._hosts_told: int | Literal["auto"] | None = driver.hosts_at_start
        """How many hosts the broker was told to have; None when it is to be told again."""
        self._deadline: float | None = None
        self._has_given_up = False
        """The deadline has passed, and that was said."""
        self._known = driver.lines_said
        """How many of the broker's lines were said."""
        self._last_line: str | None = None
        """The one that was said last."""
        self._news: Any = None
        """The answer that it owes to a question for further lines; None when it was not asked."""
        self._pause = 0.0
        """Pause before the broker is asked for news again; 0 while it is there."""
        self._ask_again = -math.inf
        """When that is, in monotonic seconds."""
        self._may_live = False
        """Whether the broker that is away may be the same when it answers: Ray has said only that it is unavailable."""
        self._standing: Any = None
        """The answer that it owes to a question for the number of hosts."""
        self._count_again: float | None = None
        """When to ask that again, in monotonic seconds; None before the first look."""
        self._latest: Any = None
        """The answer that it owes to a question for the steps that trials have taken."""
        self._asked = -math.inf
        """When that was asked, in monotonic seconds."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its stopper into every snapshot, and none is ever read."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        """Whether Tune should stop what still runs: trials first have time to save themselves."""
        self._tell()
        self._count_hosts()
        self._show_steps()
        self._stop_trials()
        self._want_hosts()
        if self._base is not None:
            self._base.look()
        if self._stop.check() is None:
            return False
        if self._deadline is None:
            self._broker.stop.remote()
            self._deadline = time.monotonic() + LEAVE_SECONDS
        if self._queue.live == 0:
            return True
        if time.monotonic() <= self._deadline:
            return False
        if not self._has_given_up:
            self._has_given_up = True
            # Some of them may wait for a slot, and have trained nothing since their last snapshot.
            late = f"{counted(self._queue.live, 'trial')} {'was' if self._queue.live == 1 else 'were'} not saved"
            lost = "what may have been trained since the last snapshot is lost"
            self._display.say(f"{late} within {LEAVE_SECONDS:.0f} s: {lost}")
        return True

    def _tell(self) -> None:
        if self._news is None:
            if time.monotonic() < self._ask_again:
                return
            away = bool(self._pause)  # Then all lines, which tell whether it is another broker.
            self._news = self._broker.news.remote(0 if away else self._known, 0.0 if away else NEWS_SECONDS)
        if not ray.wait([self._news], timeout=0)[0]:
            return
        answer, self._news = self._news, None
        try:
            lines = ray.get(answer)
            standing = ray.get(self._broker.standing.remote()) if lines else None
        except PROCESS_LOST as error:
            self._broker_lost(error)
            return
        if self._pause:
            self._broker_is_there(lines)
            lines = lines[self._known :]
        self._known += len(lines)
        for line in lines:
            self._display.say(line)
            self._last_line = line
        if standing is not None:
            self._standing = None  # It may be older.
            self._driver.hosts_changed(*standing)

    def _count_hosts(self) -> None:
        now = time.monotonic()
        if self._count_again is None:
            self._count_again = now + COUNT_SECONDS
        if self._standing is None and now >= self._count_again and not self._pause:
            self._standing, self._count_again = self._broker.standing.remote(), now + COUNT_SECONDS
        if self._standing is None or not ray.wait([self._standing], timeout=0)[0]:
            return
        answer, self._standing = self._standing, None
        with suppress(*PROCESS_LOST):  # A broker that was lost is news for `_tell`.
            self._driver.hosts_changed(*ray.get(answer))

    def _broker_is_there(self, lines: Sequence[str]) -> None:
        """After a loss: tells it what was asked for. What was told since may have reached nobody.

        Args:
            lines: all its lines. Another broker has fewer, or others: Ray calls one that it makes anew unavailable too.
        """
        known = self._known
        is_same = self._may_live and len(lines) >= known
        if is_same and known and self._last_line is not None:
            is_same = lines[known - 1] == self._last_line
        self._hosts_told = None if is_same else self._driver.hosts_at_start
        self._known = known if is_same else 0
        self._told_to_stop, self._pause = frozenset(), 0.0
        if self._deadline is not None:
            self._broker.stop.remote()

    def _broker_lost(self, error: Exception) -> None:
        """Says so once, however long it takes until there is another: a cluster that is gone makes none."""
        is_unavailable = isinstance(error, ActorUnavailableError)
        if not self._pause:
            self._may_live = True
            self._display.say(AWAY if is_unavailable else LOST)
        self._may_live = self._may_live and is_unavailable
        self._told_to_stop = frozenset()
        self._pause = min(2 * self._pause or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._ask_again = time.monotonic() + self._pause

    def _stop_trials(self) -> None:
        to_stop = frozenset(self._driver.trials_to_stop)
        for trial_key in to_stop - self._told_to_stop:
            if not self._driver.stop_parked(trial_key):
                self._broker.stop_trial.remote(trial_key)
        self._told_to_stop = to_stop

    def _want_hosts(self) -> None:
        wanted = self._driver.hosts_wanted
        if wanted != self._hosts_told and not self._pause:
            self._broker.want.remote(wanted)
            self._hosts_told = wanted

    def _show_steps(self) -> None:
        if self._latest is None and time.monotonic() - self._asked >= STEPS_SECONDS:
            self._latest, self._asked = self._broker.latest.remote(), time.monotonic()
        if self._latest is None or not ray.wait([self._latest], timeout=0)[0]:
            return
        # Where trials stand is good to know, no more: a broker that was lost is news for `_tell`.
        with suppress(*PROCESS_LOST):
            self._display.latest(ray.get(self._latest))
        self._latest = None
