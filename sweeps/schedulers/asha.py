"""ASHA: at each rung one of reduction_factor trials goes on; the others wait there (promote) or are stopped (stop).

Asynchronous successive halving (Li et al., MLSys 2020, arXiv 1810.05934). `promote` is the paper's form (Algorithm 2)
plus the order `breadth`, protected trials and the tail. `stop` is the rule of Ray's AsyncHyperBandScheduler
(tune/schedulers/async_hyperband.py, `_Bracket.on_result`, 2.60).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple, Self

from pydantic import model_validator

from sweeps.schedulers import Decision, Direction, Idle, Resume, Rule, SchedulerSettings, SlotUse, Started, TrialStatus

Order = Literal["breadth", "paper"]
TAIL_TRIALS = 3
"""Maximum number of trials that go on in the tail. If all of them end before the last point, the sweep is over."""


class Key(NamedTuple):
    """Sort key of a report: lower loss first, of equal losses the earlier report."""

    loss: float
    """Value of the metric, negated if higher is better; infinite if it was not finite."""
    order: int
    trial: str


@dataclass
class Rung:
    """Reports at a rung, best first."""

    point: int
    ranked: list[Key] = field(default_factory=list)
    """All reports; trials that diverged on the way come last."""
    parked: list[Key] = field(default_factory=list)
    """Reports of the trials that are parked at the rung."""


class Promote(Rule):
    """Resumes a parked trial that ranks in the first floor(n / reduction_factor) of the n trials at its rung.

    `breadth` begins new trials first, then resumes the lowest rung first. The steps of a sweep are known in advance
    (see `most_steps`) and hardly depend on the order in which good trials come. `paper` resumes the highest rung first,
    before any new trial, so that a trial reaches the last point early.

    The tail: if no trial would reach the last point, because floor(n / reduction_factor) is 0 at a high rung, the best
    trial of the highest rung goes on once nothing else is left to do. There is no tail if the best trial of that rung
    is a protected one, which reaches the last point anyway.
    """

    def __init__(
        self,
        points: Sequence[int],
        reduction_factor: int,
        order: Order = "breadth",
        direction: Direction = "min",
        overfit_patience: int | None = None,
    ) -> None:
        super().__init__(points, direction, overfit_patience)
        self._factor = reduction_factor
        self._order = order
        self._rungs = {point: Rung(point) for point in self.points[:-1]}
        self._places: dict[str, tuple[Rung, Key]] = {}
        """Trial -> its latest rung, and its report there."""
        self._reports = 0
        self._complete: set[str] = set()
        """Trials that reached the last point."""
        self._tail: set[str] = set()
        """Trials that were resumed although their rank was too low."""

    def next(self, is_exhausted: bool) -> SlotUse:
        """See `Rule.next`."""
        promotable = next(self.resumable(), None)
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

    def resumable(self) -> Iterator[str]:
        """Yields the trials that rank high enough: the rungs in the configured order, the best of each rung first."""
        rungs = list(self._rungs.values())
        for rung in reversed(rungs) if self._order == "paper" else rungs:
            for key in rung.parked:
                if self._is_promotable(rung, key):
                    yield key.trial
                elif not self.parks_protected:
                    break  # If a parked trial does not rank high enough, no worse one does.

    def _is_promotable(self, rung: Rung, key: Key) -> bool:
        ranks_high = bisect_left(rung.ranked, key) < len(rung.ranked) // self._factor
        return ranks_high or (self.parks_protected and self._trials[key.trial].is_protected)

    def _last_resort(self) -> str | None:
        """Returns the trial to resume in the tail; None if there is none."""
        others = [name for name in (*self._complete, *self._running) if not self._trials[name].is_protected]
        if others:  # A trial reached the last point, or may rank high enough when it reports.
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
        if self.status(event.trial) is TrialStatus.PARKED:
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


class Stop(Rule):
    """Stops a trial that is not among the best 1/reduction_factor of the trials that came to the rung before it.

    The first trial at a rung always goes on, so trials that arrive in improving order are hardly ever stopped.
    """

    def __init__(
        self,
        points: Sequence[int],
        reduction_factor: int,
        direction: Direction = "min",
        overfit_patience: int | None = None,
    ) -> None:
        super().__init__(points, direction, overfit_patience)
        self._factor = reduction_factor
        self._recorded: dict[int, list[float]] = {point: [] for point in self.points[:-1]}
        """Rung -> rewards, which are negative losses, of the trials that came so far, rising."""

    def _judge(self, name: str, point: int, loss: float) -> Decision:
        if point == self.points[-1] or not math.isfinite(loss):
            return Decision.STOP  # A value that is not finite does not move the cutoff.
        recorded = self._recorded[point]
        goes_on = not recorded or -loss >= cutoff(recorded, self._factor)
        insort(recorded, -loss)
        return Decision.GO_ON if goes_on else Decision.STOP


def cutoff(rewards: Sequence[float], factor: int) -> float:
    """Returns the 1 - 1/factor quantile of rising rewards, bit for bit as numpy's linear percentile, which Ray uses."""
    where = (1 - 1 / factor) * 100 / 100.0 * (len(rewards) - 1)
    low = math.floor(where)
    if low >= len(rewards) - 1:
        return rewards[-1]
    part, width = where - low, rewards[low + 1] - rewards[low]
    # numpy/lib/_function_base_impl.py, `_lerp` (2.4), interpolates from the nearer end.
    return rewards[low + 1] - width * (1 - part) if part >= 0.5 else rewards[low] + width * part


def most_steps(points: Sequence[int], factor: int, trials: int, slots: int, protects_first: bool) -> int:
    """Returns the maximum steps (or examples) of all trials under promotion in the order `breadth`.

    On one slot, without a protected trial, they take exactly N r0 + floor(N/factor) (r1 - r0) + ..., with 1 in place of
    a 0. A protected trial may go on besides the promoted ones. On several slots a rung is ranked before the last trials
    have come to it, so each slot but one may resume one more trial per rung. Of the first `factor` trials at a rung at
    most one ranks high enough, and each later report lets at most one more trial go on.

    Trials that are lost on their way are not counted. They cost at most what the tail takes: up to `TAIL_TRIALS` trials
    from the first rung to the last point.
    """
    total, count = trials * points[0], trials
    for rung, (low, high) in enumerate(pairwise(points)):
        early = max(1, count // factor) + (slots - 1) * (rung + 1)
        count = min(count, min(early, max(1, count - factor + 1)) + protects_first)
        total += count * (high - low)
    return total


class Config(SchedulerSettings):
    """Rungs at grace_steps, grace_steps x reduction_factor, ... and at the last step."""

    kind: Literal["asha"] = "asha"
    variant: Literal["promote", "stop"] = "promote"
    """promote: a trial is parked at each rung, and resumed when it is among the best 1/reduction_factor there.
    stop: a trial is judged once, when it comes to a rung, against the trials that came before it."""
    order: Order = "breadth"
    """Order in which promote uses free slots. breadth: new trials first, then the lowest rung. paper: the highest rung
    first, then new trials, so that a trial reaches the last step early."""

    @model_validator(mode="after")
    def _order_is_for_promote(self) -> Self:
        if self.variant == "stop" and self.order != "breadth":
            raise ValueError(f"order: {self.order} is for variant promote: leave it out, or set variant: promote")
        return self

    @property
    def parks(self) -> bool:
        """See `SchedulerSettings.parks`."""
        return self.variant == "promote"

    def build(self, steps: int, direction: Direction = "min") -> Rule:
        """See `SchedulerSettings.build`."""
        points = self.points(steps)
        if self.variant == "stop":
            return Stop(points, self.reduction_factor, direction, self.overfit_patience)
        return Promote(points, self.reduction_factor, self.order, direction, self.overfit_patience)

    def most_steps(self, steps: int, trials: int, slots: int, protects_first: bool = False) -> int:
        """See `SchedulerSettings.most_steps`."""
        if self.variant == "promote" and self.order == "breadth":
            return most_steps(self.points(steps), self.reduction_factor, trials, slots, protects_first)
        return super().most_steps(steps, trials, slots, protects_first)

    def needs_tail(self, steps: int, trials: int) -> bool:
        """See `SchedulerSettings.needs_tail`. Only then is floor(n / factor) 0 before the last point."""
        least: int = self.reduction_factor ** (len(self.points(steps)) - 1)
        return self.parks and trials < least
