"""Plays a sweep on a virtual clock: how many trials reach each rung under a scheduler's rule, and in what time. Pure.

Each trial has a quality that never changes, and a step of each takes as much of its host. What the rule does with
trials that cross, or with noise, is the simulator's business; how many it lets through hardly depends on it.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import NamedTuple

from sweeps.halving.rule import Decision, Idle, Reported, Resume, Rule, Started
from sweeps.planning.time_cost import steps_of

MOST_PLAYED = 1_000
"""Trials that are played at most; the work of more of them follows in proportion."""
MOST_REPORTS = 6_000
"""Reports of all plays together: one or two tenths of a second."""
MOST_PLAYS = 120
"""With so many the mean of 24 trials on 16 slots is within 2 % of that of 2,000 plays. 5 trials have as many orders."""


class Play(NamedTuple):
    """How a sweep went."""

    counts: tuple[int, ...]
    """Trials that reported at each of the rule's points."""
    makespan: float
    """What it took, in what points count: a host that trains one trial does one of them at a time."""


@dataclass
class _Host:
    """Its trials share its time equally."""

    running: list[tuple[float, int, str, int]] = field(default_factory=list)
    """What each of its trials will have had when this one reports; its place among those of one pass; trial; point."""
    had: float = 0.0
    """What each of its trials has had so far, counted on from trial to trial."""
    since: float = 0.0
    """When that was so."""

    def begin(self, now: float, length: int, order: int, name: str, point: int) -> None:
        """A trial trains for so long, to this point."""
        if self.running:
            self.had += (now - self.since) / len(self.running)
        self.since = now
        heapq.heappush(self.running, (self.had + length, order, name, point))

    def next_report(self) -> tuple[float, int]:
        """When that is; the order breaks ties."""
        goal, order, _, _ = self.running[0]
        return self.since + (goal - self.had) * len(self.running), order

    def report(self) -> tuple[float, str, int]:
        """When the next trial reports, which one, and at which point."""
        self.since, _ = self.next_report()
        self.had, _, name, point = heapq.heappop(self.running)
        return self.since, name, point


class _Hosts:
    """All of them. What was noted of one is passed over once it has changed: nobody looks through them all."""

    def __init__(self, count: int) -> None:
        self._all = [_Host() for _ in range(count)]
        self._shared_by = [(0, index) for index in range(count)]
        """How many trials a host has, and which one it is."""
        self._reports: list[tuple[float, int, int]] = []
        """When a host's next report comes, its order, and which one it is."""

    def emptiest(self) -> tuple[int, int]:
        """How many trials the host with the fewest has, and which one it is."""
        while (fewest := self._shared_by[0])[0] != len(self._all[fewest[1]].running):
            heapq.heappop(self._shared_by)
        return fewest

    def begin(self, index: int, now: float, length: int, order: int, name: str, point: int) -> None:
        """See `_Host.begin`."""
        self._all[index].begin(now, length, order, name, point)
        self._note(index)

    def report(self) -> tuple[int, float, str, int] | None:
        """The host whose trial reports next, and what `_Host.report` says; None when no trial trains."""
        while self._reports:
            *when, index = heapq.heappop(self._reports)
            host = self._all[index]
            if host.running and [*host.next_report()] == when:
                told = host.report()
                self._note(index)
                return index, *told
        return None

    def _note(self, index: int) -> None:
        host = self._all[index]
        heapq.heappush(self._shared_by, (len(host.running), index))
        if host.running:
            heapq.heappush(self._reports, (*host.next_report(), index))


def play(rule: Rule, qualities: Sequence[float], hosts: int, slots: int, protects_first: bool) -> Play:
    """The sweep whose trials begin in this order, each on the host with the fewest.

    Args:
        rule: has seen nothing.
        qualities: of each trial, the lower the better.
        hosts: train at the same time.
        slots: trials that share a host.
        protects_first: the first trial is trained to the end whatever it reports.
    """
    counts = [0] * len(rule.points)
    place = {point: index for index, point in enumerate(rule.points)}
    all_hosts = _Hosts(hosts)
    begun = 0
    now = 0.0

    def begin(host: int, name: str, before: int) -> None:
        point = _point(rule, name)
        # Of those that report in one pass no better one comes first: resumed trials begin in the order of their ranks.
        all_hosts.begin(host, now, point - before, int(name), name, point)

    while True:
        while (fewest := all_hosts.emptiest())[0] < slots:
            work = rule.next(begun >= len(qualities))
            if isinstance(work, Resume):
                name, before = work.trial, rule.resource(work.trial)
            elif work is Idle.NEW:
                name, before, begun = str(begun), 0, begun + 1
            else:
                break
            rule.take(Started(name, protects_first and name == "0"))
            begin(fewest[1], name, before)
        told = all_hosts.report()
        if told is None:
            return Play(tuple(counts), now)
        host, now, name, point = told
        counts[place[point]] += 1
        if rule.take(Reported(name, point, qualities[int(name)])) is Decision.GO_ON:
            begin(host, name, point)


def _point(rule: Rule, name: str) -> int:
    point = rule.next_point(name)
    assert point is not None, "a trial that has reported at the last point is over"
    return point


def plays(
    make: Callable[[], Rule], trials: int, hosts: int, slots: int, protects_first: bool, is_random: bool = True
) -> list[Play]:
    """The sweep in random orders of arrival, of few trials in all orders; in one where nothing is left to chance.

    Args:
        make: a rule that has seen nothing.
        trials: of the sweep; of more than MOST_PLAYED, a part is played.
        hosts: train at the same time.
        slots: trials that share a host.
        protects_first: the first trial is trained to the end whatever it reports.
        is_random: the order of arrival matters.
    """
    rng = random.Random(0)
    played = min(trials, MOST_PLAYED)
    larger, shared_by, points = trials / played, min(hosts, played), make().points
    count = max(3, min(MOST_PLAYS, MOST_REPORTS // (played * len(points)))) if is_random else 1
    orders: Iterable[Sequence[int]] = (rng.sample(range(played), played) for _ in range(count))
    if is_random and math.factorial(min(played, MOST_PLAYS)) <= MOST_PLAYS:
        orders = permutations(range(played))
    outcomes = []
    for order in orders:
        counts, makespan = play(make(), [float(quality) for quality in order], shared_by, slots, protects_first)
        # Hosts share the work of more trials. The end, when the last of them train and hosts idle, stays as it is.
        makespan += (larger - 1) * steps_of(points, counts) / shared_by
        outcomes.append(Play(tuple(round(reached * larger) for reached in counts), makespan))
    return outcomes
