"""ASHA in its promoting form: a trial is parked at each rung, and goes on when it ranks among the best there. Pure.

Li et al., MLSys 2020 (arXiv 1810.05934), Algorithm 2. What is added to it: the order `breadth`, protected trials, and
the tail.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from sweeps.halving.rule import Decision, Direction, Idle, Resume, Rule, Standing, Started, Work

Order = Literal["breadth", "paper"]
TAIL_TRIALS = 3
"""So many trials go on in the tail. When the last of them ends before the last point, the sweep is over."""


class Key(NamedTuple):
    """A report as it is ranked: the smaller the better, the earlier of two equal ones first."""

    loss: float
    """The value, or its negative where higher is better; infinite where it was not finite."""
    order: int
    trial: str


@dataclass
class Rung:
    """The trials that came to a rung, best first."""

    point: int
    ranked: list[Key] = field(default_factory=list)
    """All of them, those that diverged on the way last."""
    parked: list[Key] = field(default_factory=list)
    """Those that wait there."""


class Promote(Rule):
    """Resumes a parked trial when it ranks in the first floor(n / reduction_factor) of the n that came to its rung.

    `breadth`: new trials begin first, then the lowest rung is resumed first. What a sweep takes is known in advance
    (see `promotion_cost.most_steps`) and hardly depends on the order in which good trials come. `paper`: the highest
    rung is resumed first and before any new trial, so that a trial reaches the last point early.

    The tail: where no trial would reach the last point (floor(n / reduction_factor) is 0 up there), the best one of
    the highest rung goes on once nothing else is left to do. A protected trial that leads there is enough; the tail
    begins beside one that does not.
    """

    def __init__(
        self,
        points: Sequence[int],
        reduction_factor: int,
        order: Order = "breadth",
        direction: Direction = "min",
        overfit_patience: int | None = None,
    ) -> None:
        """See `Rule`; one of `reduction_factor` trials goes on at each rung."""
        super().__init__(points, direction, overfit_patience)
        self._factor = reduction_factor
        self._order = order
        self._rungs = {point: Rung(point) for point in self.points[:-1]}
        self._places: dict[str, tuple[Rung, Key]] = {}
        """Where each trial was ranked last."""
        self._reports = 0
        """How many were ranked."""
        self._complete: set[str] = set()
        """Trials that have reached the last point."""
        self._tail: set[str] = set()
        """Trials that were resumed although they did not rank high enough."""

    def next(self, is_exhausted: bool) -> Work:
        """See `Rule.next`."""
        promotable = next(self._promotable(), None)
        if self._order == "paper" and promotable is not None:
            return Resume(promotable)
        if not is_exhausted:
            return Idle.NEW
        if promotable is not None:
            return Resume(promotable)
        last = self._last_resort()
        if last is not None:
            return Resume(last)
        return Idle.WAIT if self._running else Idle.OVER

    def rank(self, trial: str) -> tuple[int, int, int] | None:
        """See `Rule.rank`."""
        if trial not in self._places:
            return None
        rung, key = self._places[trial]
        return rung.point, bisect_left(rung.ranked, key) + 1, len(rung.ranked)

    def is_due(self, trial: str) -> bool:
        """See `Rule.is_due`."""
        return trial in self._places and self._is_promotable(*self._places[trial])

    def is_in_tail(self, trial: str) -> bool:
        """See `Rule.is_in_tail`."""
        return trial in self._tail

    def _promotable(self) -> Iterator[str]:
        """The trial to resume at each rung where there is one, in the order in which rungs come."""
        rungs = list(self._rungs.values())
        for rung in reversed(rungs) if self._order == "paper" else rungs:
            # If the best of the parked does not rank high enough, no other one does.
            if rung.parked and self._is_promotable(rung, rung.parked[0]):
                yield rung.parked[0].trial

    def _is_promotable(self, rung: Rung, key: Key) -> bool:
        return bisect_left(rung.ranked, key) < len(rung.ranked) // self._factor

    def _last_resort(self) -> str | None:
        """The trial that goes on to the last point although it does not rank high enough among so few."""
        others = [name for name in (*self._complete, *self._running) if not self._trials[name].is_protected]
        if others:  # One has reached it, or may rank high enough once it reports.
            return None
        for rung in reversed(self._rungs.values()):
            if rung.parked:
                leader = rung.parked[0]
                if leader.trial not in self._tail and len(self._tail) >= TAIL_TRIALS:
                    return None
                before = {key.trial for key in rung.ranked[: bisect_left(rung.ranked, leader)]}
                unknown = self._running - {key.trial for key in rung.ranked}
                return None if unknown or before & (self._complete | self._running) else leader.trial
        return None

    def _start(self, event: Started) -> Decision:
        if self.standing(event.trial) is Standing.PARKED:
            is_in_tail = event.is_in_tail
            if is_in_tail is None:
                is_in_tail = not self._is_promotable(*self._places[event.trial])
            if is_in_tail:
                self._tail.add(event.trial)
        return super()._start(event)

    def _judge(self, name: str, point: int, loss: float) -> Decision:
        if point == self.points[-1]:
            if math.isfinite(loss):
                self._complete.add(name)
            return Decision.STOP
        self._reports += 1
        rung, key = self._places[name] = self._rungs[point], Key(loss, self._reports, name)
        insort(rung.ranked, key)
        return Decision.PARK

    def _parked(self, name: str) -> None:
        rung, key = self._places[name]
        insort(rung.parked, key)

    def _unparked(self, name: str) -> None:
        rung, key = self._places[name]
        rung.parked.remove(key)
