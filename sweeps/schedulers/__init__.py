"""Which trials go on: one module per scheduler, each with its rule and a `Config`, the settings that build the rule.

A rule is a pure machine: events in, decisions out. Ray's scheduler, the plan and the simulator all play it. A rule
holds no clock, no randomness and no handle to anything that runs, and its state is nothing but the fold of the events
that it took. So a sweep that goes on after a kill replays its log, and stands where it stood::

    rule = Config(grace_steps=3).build(steps=27)                  # of asha, median or fifo
    rule.take(Started("a", is_protected=True))                    # a trial was given a slot for the first time
    decision = rule.take(Reported("a", resource=3, value=1.25))    # GO_ON; STOP: it is over; PARK: its slot is free
    rule.take(Ended("b"))                                         # it failed, or someone ended it
    work = rule.next(is_exhausted=False)                          # a slot is free: what now?
    if isinstance(work, Resume):
        rule.take(Started(work.trial))                            # it goes on to the next of the points
    elif work is Idle.NEW:
        ...                                                       # begin a new trial; when there is none, ask again
                                                                  # with is_exhausted=True
    # Idle.WAIT: nothing until a trial reports or ends; Idle.OVER: nothing any more, parked trials have ended

`resource` is what trials are given more of, as a whole number: optimizer steps or examples.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from trainables.objective import Direction as Direction  # the rules take it from here
from trainables.specs import MOST, Spec


@dataclass(frozen=True, slots=True)
class Started:
    """A trial has a slot: it is new, or it goes on after it was parked or interrupted."""

    trial: str
    is_protected: bool = False
    """Whatever its reports say, the trial is trained to the last point: the others are compared with it."""
    is_in_tail: bool | None = None
    """Whether it was resumed although it did not rank high enough; None: its rank now says so. What was decided may
    come here late, when others have reported in between."""


@dataclass(frozen=True, slots=True)
class Reported:
    """A trial was evaluated at a point."""

    trial: str
    resource: int
    """Steps or examples that it has had."""
    value: float
    """The metric's value. A trial whose value is not finite is over."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial is over, and not by a decision: it failed, diverged or turned out infeasible, or someone ended it."""

    trial: str
    is_diverged: bool = False
    """It had its turn and lost it: it ranks last where it would have reported next."""


Event = Started | Reported | Ended


class Decision(StrEnum):
    """What becomes of a trial after its report."""

    GO_ON = "go_on"
    STOP = "stop"
    """The trial is over: it was stopped early, or has reached the last point."""
    PARK = "park"
    """The trial gives its slot back and may be resumed."""


@dataclass(frozen=True, slots=True)
class Resume:
    """A free slot is for this parked trial."""

    trial: str


class Idle(StrEnum):
    """What a free slot is for when no parked trial is to go on."""

    NEW = "new"
    """For a new trial."""
    WAIT = "wait"
    """For nobody until a trial reports or ends."""
    OVER = "over"
    """For nobody any more: the trials that are parked now have ended."""


Work = Resume | Idle


class Standing(StrEnum):
    """Where a trial is, as far as its rule knows."""

    RUNNING = "running"
    PARKED = "parked"
    OVER = "over"


@dataclass
class TrialHistory:
    """What a rule remembers of a trial."""

    is_protected: bool
    standing: Standing = Standing.RUNNING
    resource: int = 0
    """Steps or examples at the last report."""
    losses: list[float] = field(default_factory=list)
    """Losses of the reports, in order."""
    worse_in_a_row: int = 0
    """Reports since its best one."""

    @property
    def best(self) -> float:
        """The lowest loss so far; infinite before the first report."""
        return min(self.losses, default=math.inf)


class Rule:
    """A fold over events that says who goes on. Subclasses say how a report is judged, and who is resumed."""

    def __init__(
        self, points: Sequence[int], direction: Direction = "min", overfit_patience: int | None = None
    ) -> None:
        """A rule that has seen nothing.

        Args:
            points: resources at which every trial reports, rising; at the last one it is complete.
            direction: whether a lower or a higher value of the metric is better.
            overfit_patience: a trial stops after so many reports in a row that are worse than its best one, as a
                training that overfits does (ALTO, arXiv 2604.05426, its early exit for overfitting); None: never.
        """
        if not points or any(low >= high for low, high in pairwise(points)):
            raise ValueError(f"points must rise and must not be empty: {points}")
        self.points = tuple(points)
        self._sign = 1.0 if direction == "min" else -1.0
        self._patience = overfit_patience
        self._trials: dict[str, TrialHistory] = {}
        self._running: set[str] = set()

    def take(self, event: Event) -> Decision:
        """Folds an event in; answers what becomes of its trial.

        A report at or before the trial's last one was judged already: the trial goes on. The end of an unknown trial
        says nothing.

        Raises:
            ValueError: the trial reports and has not started.
        """
        match event:
            case Started():
                return self._start(event)
            case Ended():
                return self._end(event)
            case Reported():
                return self._report(event)

    def next(self, is_exhausted: bool) -> Work:
        """What a free slot is for. Asking changes nothing: tell what was done of it by `Started`.

        Args:
            is_exhausted: there is no new trial to begin now.
        """
        if not is_exhausted:
            return Idle.NEW
        return Idle.WAIT if self._running else Idle.OVER

    def standing(self, trial: str) -> Standing | None:
        """Where the trial is; None when the rule does not know it."""
        known = self._trials.get(trial)
        return known.standing if known is not None else None

    def resource(self, trial: str) -> int:
        """Steps or examples at the trial's last report; 0 before the first."""
        return self._trials[trial].resource

    def next_point(self, trial: str) -> int | None:
        """Where the trial reports next; None when it has reported at the last point."""
        return next_point(self.points, self._trials[trial].resource)

    def rank(self, trial: str) -> tuple[int, int, int] | None:
        """The last rung that the trial was ranked at, its place there from 1 on, and of how many.

        None for a trial that was not ranked, and under a rule that ranks none.
        """
        return None

    def is_due(self, trial: str) -> bool:
        """Whether the trial ranks high enough to go on from the rung that it is parked at."""
        return False

    def is_in_tail(self, trial: str) -> bool:
        """Whether the trial was ever resumed although it did not rank high enough."""
        return False

    def _judge(self, name: str, point: int, loss: float) -> Decision:
        """Takes a report in and judges it; the trial's losses end with it. A loss that is not finite is infinite."""
        raise NotImplementedError

    def _parked(self, name: str) -> None:
        """Takes in that the trial waits where it is from now on."""

    def _unparked(self, name: str) -> None:
        """Takes in that the trial waits there no longer: it runs, or is over."""

    def _start(self, event: Started) -> Decision:
        trial = self._trials.get(event.trial)
        if trial is None:
            trial = self._trials[event.trial] = TrialHistory(event.is_protected)
        elif trial.standing is Standing.OVER:
            return Decision.STOP
        self._stand(event.trial, trial, Standing.RUNNING)
        return Decision.GO_ON

    def _end(self, event: Ended) -> Decision:
        trial = self._trials.get(event.trial)
        if trial is None or trial.standing is Standing.OVER:
            return Decision.STOP
        self._stand(event.trial, trial, Standing.OVER)
        point = self.next_point(event.trial)
        if event.is_diverged and point is not None:
            trial.losses.append(math.inf)
            self._judge(event.trial, point, math.inf)
        return Decision.STOP

    def _report(self, event: Reported) -> Decision:
        trial = self._trials.get(event.trial)
        if trial is None:
            raise ValueError(f"{event.trial} reports at {event.resource} and has not started")
        if trial.standing is Standing.OVER:
            return Decision.STOP
        if event.resource <= trial.resource:
            return Decision.GO_ON
        self._stand(event.trial, trial, Standing.RUNNING)
        loss = self._sign * event.value if math.isfinite(event.value) else math.inf
        trial.worse_in_a_row = trial.worse_in_a_row + 1 if loss > trial.best else 0
        trial.losses.append(loss)
        decision = Decision.GO_ON
        # One point, unless the report is late.
        for point in self.points[bisect_right(self.points, trial.resource) : bisect_right(self.points, event.resource)]:
            if decision is not Decision.STOP:
                decision = self._judge(event.trial, point, loss)
        trial.resource = event.resource
        decision = self._settled(trial, decision)
        if decision is Decision.STOP:
            self._stand(event.trial, trial, Standing.OVER)
        elif decision is Decision.PARK:
            self._stand(event.trial, trial, Standing.PARKED)
        return decision

    def _settled(self, trial: TrialHistory, decision: Decision) -> Decision:
        """The decision with what holds under every rule."""
        if trial.losses[-1] == math.inf or trial.resource >= self.points[-1]:
            return Decision.STOP
        if trial.is_protected:
            return Decision.GO_ON
        is_overfit = self._patience is not None and trial.worse_in_a_row >= self._patience
        return Decision.STOP if is_overfit else decision

    def _stand(self, name: str, trial: TrialHistory, standing: Standing) -> None:
        was_parked, trial.standing = trial.standing is Standing.PARKED, standing
        if was_parked and standing is not Standing.PARKED:
            self._unparked(name)
        (self._running.add if standing is Standing.RUNNING else self._running.discard)(name)
        if standing is Standing.PARKED:
            self._parked(name)


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


class SchedulerSettings(Spec):
    """Report points at grace_steps, grace_steps x reduction_factor, ... and at the last step."""

    grace_steps: Annotated[int, Field(ge=1, le=MOST)] = 3
    """Steps that every trial gets: the first report point."""
    reduction_factor: Annotated[int, Field(ge=2, le=MOST)] = 3
    """Each report point is so many times the one before; under ASHA one of so many trials goes on there."""
    overfit_patience: Annotated[int, Field(ge=1, le=MOST)] | None = None
    """A trial ends itself after so many reports in a row that are worse than its best one, and keeps the adapter of
    that one (ALTO, arXiv 2604.05426). Left out: never."""
    metric: Literal["eval_loss"] | None = None
    """eval_loss: it goes by the loss, while `objective` chooses the best trial. Left out: by the objective, or by
    eval_loss where the objective is a score that trials get at their last report point only."""
    kind: str
    compares: ClassVar[bool] = True
    """Whether trials are compared at the report points: which of them go on depends on what others reported."""

    @property
    def parks(self) -> bool:
        """Whether trials may be parked at a report point and resumed later."""
        return False

    def points(self, steps: int) -> tuple[int, ...]:
        """Steps at which each trial reports; the last one is `steps`."""
        return rungs(self.grace_steps, self.reduction_factor, steps)

    @abstractmethod
    def build(self, steps: int, direction: Direction = "min") -> Rule:
        """The rule for reports at these points, which has seen nothing.

        Args:
            steps: of a trial that is not stopped.
            direction: whether a lower or a higher value of the metric is better.
        """

    def most_steps(self, steps: int, trials: int, slots: int, protects_first: bool = False) -> int:
        """Optimizer steps that the whole sweep takes at most.

        Args:
            steps: of a trial that is not stopped.
            slots: how many of them train at once.
            protects_first: one of them is trained to its end whatever it reports.
        """
        return steps * trials

    def needs_tail(self, steps: int, trials: int) -> bool:
        """Whether a trial reaches the last step only because the best one goes on beyond what its rank allows."""
        return False
