"""Plays a sweep on a virtual clock: how many trials reach each rung under a scheduler's rule. Pure.

Each trial has a quality that never changes, and all take the same time for a step. What the rule does with trials that
cross, or with noise, is the simulator's business; how many it lets through hardly depends on it.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence

from sweeps.halving.rule import Decision, Idle, Reported, Resume, Rule, Started

MOST_PLAYED = 1_000
"""Trials that are played at most; what more of them take follows in proportion."""
MOST_REPORTS = 6_000
"""Reports of all plays together: about a tenth of a second."""
MOST_PLAYS = 20


def play(rule: Rule, qualities: Sequence[float], slots: int, spares_first: bool) -> tuple[int, ...]:
    """Trials that report at each of the rule's points when they begin in this order.

    Args:
        rule: has seen nothing.
        qualities: of each trial, the lower the better.
        slots: trials that train at once.
        spares_first: the first trial is trained to the end whatever it reports.
    """
    counts = [0] * len(rule.points)
    place = {point: index for index, point in enumerate(rule.points)}
    running: list[tuple[int, int, str, int]] = []
    begun = order = now = 0
    while True:
        while len(running) < slots:
            work = rule.next(begun >= len(qualities))
            if isinstance(work, Resume):
                name = work.trial
            elif work is Idle.NEW:
                name, begun = str(begun), begun + 1
            else:
                break
            before = rule.resource(name) if isinstance(work, Resume) else 0
            rule.take(Started(name, spares_first and name == "0"))
            order, point = order + 1, _point(rule, name)
            heapq.heappush(running, (now + point - before, order, name, point))
        if not running:
            return tuple(counts)
        now, _, name, point = heapq.heappop(running)
        counts[place[point]] += 1
        while rule.take(Reported(name, point, qualities[int(name)])) is Decision.GO_ON:
            order, goal = order + 1, _point(rule, name)
            heapq.heappush(running, (now + goal - point, order, name, goal))
            break


def _point(rule: Rule, name: str) -> int:
    point = rule.next_point(name)
    assert point is not None, "a trial that has reported at the last point is over"
    return point


def plays(
    make: Callable[[], Rule], trials: int, slots: int, spares_first: bool, is_random: bool = True
) -> list[tuple[int, ...]]:
    """Trials at each point in several random orders of arrival; one where the rule leaves nothing to chance.

    Args:
        make: a rule that has seen nothing.
        trials: of the sweep; of more than MOST_PLAYED, a part is played.
        slots: trials that train at once.
        spares_first: the first trial is trained to the end whatever it reports.
        is_random: the order of arrival matters.
    """
    rng = random.Random(0)
    played = min(trials, MOST_PLAYED)
    points = len(make().points)
    count = max(3, min(MOST_PLAYS, MOST_REPORTS // (played * points))) if is_random else 1
    outcomes = []
    for _ in range(count):
        qualities = [float(quality) for quality in rng.sample(range(played), played)]
        counts = play(make(), qualities, min(slots, played), spares_first)
        outcomes.append(tuple(round(reached * trials / played) for reached in counts))
    return outcomes
