"""Acts between the steps of Ray Tune: stops trials and the sweep on request, and tells what the hosts do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ray.tune import Stopper

from cluster.broker_answers import News
from cluster.hosts import PROCESS_LOST
from cluster.pace import Silent
from sweeps import timeouts
from sweeps.config.number_words import counted
from sweeps.record.events import HostsChanged
from sweeps.report.live_table import Display
from sweeps.tune.actor_calls import RAY, Calls, OpenCall
from sweeps.tune.host_news import BaseEvaluation, BrokerLines, HostCount, StartedHosts, tell_changes
from sweeps.tune.sweep_trials import SweepTrials

HostNumbers = tuple[int, int, int, tuple[Silent, ...]]
"""Numbers of hosts and slots, then `held` and `silent` as in `HostsStarted`."""


class Watch(Stopper):
    """Watches a sweep between Tune's steps, as Tune's stopper. No method waits."""

    def __init__(
        self,
        hosts: StartedHosts,
        trials: SweepTrials,
        live_trials: Callable[[], int],
        display: Display,
        bases: Sequence[BaseEvaluation],
        calls: Calls = RAY,
    ) -> None:
        """Watches a sweep whose hosts have started.

        Args:
            live_trials: returns the number of trials that were handed out and are not over.
            bases: those that were not evaluated before.
        """
        self._trials, self._live_trials, self._display, self._bases = trials, live_trials, display, bases
        self._broker, self._calls, self._hosts_at_start = hosts.broker, calls, hosts.hosts_at_start
        self._lines = BrokerLines(hosts.lines_said)
        self._news, self._standing, self._latest = OpenCall(calls), OpenCall(calls), OpenCall(calls)
        self._told_to_stop: frozenset[str] = frozenset()
        """Keys of the trials that the broker was told to stop."""
        self._hosts_told: HostCount | None = hosts.hosts_at_start
        """The number of hosts that the broker was told to run; None if the broker must be told again."""
        self._count_at = calls.now() + timeouts.COUNT_SECONDS
        """Monotonic seconds at which to ask for the number of hosts."""
        self._steps_at = -math.inf
        """Monotonic seconds at which to ask for the steps of the trials."""
        self._deadline: float | None = None
        """Monotonic seconds until which trials may save themselves; None while the sweep goes on."""
        self._has_given_up = False
        """Whether the user was told that the deadline has passed."""

    def __getstate__(self) -> dict[str, Any]:
        """Returns nothing: Tune pickles its stopper into each of its snapshots, and nobody reads them."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Returns False: `RuleScheduler` stops single trials."""
        return False

    def stop_all(self) -> bool:
        """Does the work of the watch. Returns True once Tune should end the sweep and its trials are saved or late."""
        self._tell_news()
        self._count_hosts()
        self._show_steps()
        self._stop_trials()
        self._want_hosts()
        for base in self._bases:
            base.look()
        return self._trials.stop.check() is not None and self._may_end()

    def _may_end(self) -> bool:
        """Tells whether all trials of a sweep that is to end are saved, or their time is over."""
        if self._deadline is None:
            self._broker.stop.remote()
            self._deadline = self._calls.now() + timeouts.LEAVE_SECONDS
        live = self._live_trials()
        if live == 0:
            return True
        if self._calls.now() <= self._deadline:
            return False
        if not self._has_given_up:
            self._has_given_up = True
            # Some of these trials may wait for a slot and have trained nothing since their last snapshot.
            late = f"{counted(live, 'trial')} {'was' if live == 1 else 'were'} not saved"
            lost = "what may have been trained since the last snapshot is lost"
            self._display.say(f"{late} within {timeouts.LEAVE_SECONDS:.0f} s: {lost}")
        return True

    def _tell_news(self) -> None:
        if not self._news.is_open:
            question = self._lines.question(self._calls.now())
            if question is None:
                return
            self._news.ask(self._broker.news.remote(*question))
        if not self._news.is_answered():
            return
        try:
            told: News = self._news.answer()
            standing = self._calls.answer(self._broker.standing.remote()) if told.lines else None
        except PROCESS_LOST as error:
            self._broker_lost(error)
            return
        heard = self._lines.heard(told)
        if heard.is_back:
            self._tell_again(heard.is_another)
        for line in heard.news:
            self._display.say(line)
        if standing is not None:
            self._standing.forget()  # The open question may bring an older answer.
            self._hosts_changed(standing)

    def _broker_lost(self, error: Exception) -> None:
        line = self._lines.lost(error, self._calls.now())
        if line is not None:
            self._display.say(line)
        self._told_to_stop = frozenset()

    def _tell_again(self, is_another: bool) -> None:
        """Repeats all requests to a broker that was away, because requests sent meanwhile may be lost."""
        self._hosts_told = self._hosts_at_start if is_another else None
        self._told_to_stop = frozenset()
        if self._deadline is not None:
            self._broker.stop.remote()

    def _count_hosts(self) -> None:
        now = self._calls.now()
        if not self._standing.is_open and now >= self._count_at and not self._lines.is_away:
            self._standing.ask(self._broker.standing.remote())
            self._count_at = now + timeouts.COUNT_SECONDS
        if self._standing.is_answered():
            with suppress(*PROCESS_LOST):  # `_tell_news` reports a lost broker.
                self._hosts_changed(self._standing.answer())

    def _hosts_changed(self, standing: HostNumbers) -> None:
        hosts, slots, held, silent = standing
        now = HostsChanged(time=self._trials.clock(), hosts=hosts, slots=slots, held=held, silent=silent)
        tell_changes(now, self._trials.journal, self._display.say)

    def _show_steps(self) -> None:
        now = self._calls.now()
        if not self._latest.is_open and now >= self._steps_at:
            self._latest.ask(self._broker.latest.remote())
            self._steps_at = now + timeouts.STEPS_SECONDS
        if self._latest.is_answered():
            with suppress(*PROCESS_LOST):  # `_tell_news` reports a lost broker.
                self._display.latest(self._latest.answer())

    def _stop_trials(self) -> None:
        to_stop = frozenset(self._trials.to_stop)
        for trial_key in to_stop - self._told_to_stop:
            if not self._trials.stop_parked(trial_key):
                self._broker.stop_trial.remote(trial_key)
        self._told_to_stop = to_stop

    def _want_hosts(self) -> None:
        wanted = self._trials.amended.cluster.hosts
        if wanted != self._hosts_told and not self._lines.is_away:
            self._broker.want.remote(wanted)
            self._hosts_told = wanted
