"""What a sweep takes in all, by the rule that halves it. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from sweeps.halving.rule import Idle, Reported, Resume, Rule, Started, Verdict

MOST_PLAYED = 1_000
"""Trials that are played at most; what more of them take follows in proportion."""
PLAYED = 4_000
"""Trials of all plays together."""


class Cost(NamedTuple):
    """Steps (or examples) of a whole sweep, summed over its trials."""

    expected: int
    worst: int


def promote_counts(trials: int, rungs: int, factor: int) -> tuple[int, ...]:
    """How many trials come to each rung in the order `breadth`, trial after trial: each floor(n / factor) of the last.

    From the rung where that is 0 it is 1: the tail.
    """
    counts = [trials]
    for _ in range(rungs - 1):
        counts.append(max(1, counts[-1] // factor))
    return tuple(counts)


def has_tail(trials: int, rungs: int, factor: int) -> bool:
    """Whether nobody would come to the last point without the tail."""
    return trials < math.prod([factor] * (rungs - 1))


def promote_cost(points: Sequence[int], factor: int, trials: int, slots: int = 1, protects_first: bool = False) -> Cost:
    """What promotion in the order `breadth` takes.

    Without a protected trial and on one slot `expected` is exact: N r0 + floor(N/factor) (r1 - r0) + ... A protected
    trial is among the best of each rung as often as any other, else it goes on beside them; `expected` is the mean over
    its rank. On several slots a rung is ranked before the last trials have come to it: each slot but one may resume
    one more trial per rung, `worst` has all of them.
    """
    expected = sum(_steps(points, factor, trials, rank) for rank in range(trials)) / trials if protects_first else None
    exact = _steps(points, factor, trials, None)
    worst, count = trials * points[0], trials
    for rung, (low, high) in enumerate(pairwise(points)):
        count = min(count, max(1, count // factor) + (slots - 1) * (rung + 1) + protects_first)
        worst += count * (high - low)
    return Cost(exact if expected is None else round(expected), worst)


def _steps(points: Sequence[int], factor: int, trials: int, protected: int | None) -> int:
    """Steps on one slot when the protected trial has this rank among all, 0 the best; None without one."""
    total, count = trials * points[0], trials
    for low, high in pairwise(points):
        promoted = max(1, count // factor)
        count = promoted + (protected is not None and protected >= promoted)
        total += count * (high - low)
    return total


def played_cost(make: Callable[[], Rule], trials: int, protects_first: bool = False) -> Cost:
    """What a rule takes on one slot when good and bad trials come in random order, and when none is stopped.

    Trials keep their rank from their first report to their last. The same at every call.
    """
    rng = random.Random(0)
    played = min(trials, MOST_PLAYED)
    plays = max(1, min(200, PLAYED // played))
    totals = [steps_of(make(), rng.sample(range(played), played), protects_first) for _ in range(plays)]
    return Cost(round(sum(totals) / plays * trials / played), trials * make().points[-1])


def steps_of(rule: Rule, values: Sequence[float], protects_first: bool = False) -> int:
    """Steps that trials with these values, the same at each point, take on one slot in this order. Plays `rule`."""
    total = begun = 0
    while True:
        work = rule.next(is_exhausted=begun == len(values))
        if isinstance(work, Resume):
            number = int(work.trial)
        elif work is Idle.NEW:
            number, begun = begun, begun + 1
        else:
            return total
        name = str(number)
        rule.take(Started(name, is_protected=protects_first and number == 0))
        since = 0 if work is Idle.NEW else rule.resource(name)
        verdict = Verdict.GO_ON
        while verdict is Verdict.GO_ON:
            point = rule.next_point(name)
            assert point is not None, "a trial at the last point is over"
            verdict = rule.take(Reported(name, point, values[number]))
        total += rule.resource(name) - since
