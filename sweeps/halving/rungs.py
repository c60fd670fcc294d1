"""Rungs of successive halving. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


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
