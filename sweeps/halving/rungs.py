"""Rungs of successive halving, and how many steps a sweep is expected to take. Pure."""

from __future__ import annotations

import random
from bisect import bisect_right, insort
from collections.abc import Sequence
from typing import NamedTuple

MOST_PLAYED = 5_000
"""Trials that are played at most; what more of them take follows in proportion."""


def rungs(grace_steps: int, reduction_factor: int, steps: int) -> tuple[int, ...]:
    """Steps at which trials are compared: grace_steps times powers of reduction_factor below `steps`, then `steps`.

    Integers are multiplied, since Ray's own milestones (tune/schedulers/async_hyperband.py, 2.60) come from a
    floating-point logarithm that can lose the top rung: (1, 1000, 10) gives 1, 10, 100 there.
    """
    points = []
    step = grace_steps
    while step < steps:
        points.append(step)
        step *= reduction_factor
    return (*points, steps)


def next_point(points: Sequence[int], step: int) -> int | None:
    """The first report point after `step`, or None when `step` is at or past the last one."""
    place = bisect_right(points, step)
    return points[place] if place < len(points) else None


class Steps(NamedTuple):
    """Optimizer steps of a whole sweep, summed over its trials."""

    expected: int
    worst: int
    """No trial is stopped."""


def asha_steps(points: Sequence[int], reduction_factor: int, trials: int) -> Steps:
    """Steps that asynchronous halving in its stopping form takes when trials arrive in random order.

    Plays Ray's rule on trials whose ranking is fixed (a trial stops at a rung when it is below the
    1 - 1/reduction_factor quantile of those recorded before; async_hyperband.py, `_Bracket.on_result`). Trials that
    are equally fast come to each rung in the order of their start, so the number of slots does not matter.
    """
    rng = random.Random(0)
    played = min(trials, MOST_PLAYED)
    plays = max(1, min(200, 20_000 // played))
    totals = [_play(points, reduction_factor, rng.sample(range(played), played)) for _ in range(plays)]
    return Steps(round(sum(totals) / plays * trials / played), trials * points[-1])


def _play(points: Sequence[int], factor: int, qualities: Sequence[int]) -> int:
    """Steps of trials with these qualities, each different, in this order."""
    recorded: list[list[int]] = [[] for _ in points[:-1]]
    total = 0
    for quality in qualities:
        rung = 0
        while rung < len(recorded):
            goes_on = _survives(quality, recorded[rung], factor)
            insort(recorded[rung], quality)
            if not goes_on:
                break
            rung += 1
        total += points[rung]
    return total


def _survives(quality: int, ordered: Sequence[int], factor: int) -> bool:
    """Whether `quality` (greater is better) is at or above the 1 - 1/factor quantile of `ordered`, ascending."""
    if not ordered:
        return True
    place = (1 - 1 / factor) * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return quality >= ordered[low] + (place - low) * (ordered[high] - ordered[low])
