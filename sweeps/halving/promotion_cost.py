"""What promotion takes at most, and whether it has enough trials. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def has_tail(trials: int, rungs: int, factor: int) -> bool:
    """Whether nobody comes to the last point by rank: floor(n / factor) is 0 before it, and the tail goes on."""
    least: int = factor ** (rungs - 1)
    return trials < least


def most_steps(points: Sequence[int], factor: int, trials: int, slots: int, protects_first: bool) -> int:
    """Steps (or examples) of all trials that promotion in the order `breadth` takes at most.

    On one slot, without a protected trial, it takes so many in any case: N r0 + floor(N/factor) (r1 - r0) + ..., with 1
    in place of a 0. A protected trial may go on beside those that are promoted. On several slots a rung is ranked
    before the last trials have come to it: each slot but one may resume one more trial per rung. Of the first `factor`
    trials that come to a rung at most one ranks high enough, and each later report lets at most one more.

    Trials that are lost on their way are not in it. They cost no more than the trials of the tail take, up to
    `asha_promote.TAIL_TRIALS` of them from the first rung to the last point.
    """
    total, count = trials * points[0], trials
    for rung, (low, high) in enumerate(pairwise(points)):
        early = max(1, count // factor) + (slots - 1) * (rung + 1)
        count = min(count, min(early, max(1, count - factor + 1)) + protects_first)
        total += count * (high - low)
    return total
