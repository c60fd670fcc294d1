"""Decides which trials go on: one module per scheduler, with its rule and a `Config` that builds the rule.

A rule is a pure machine: events in, decisions out. Ray's scheduler, the plan and the simulator all play the same rule.
A rule holds no clock, no randomness and no handle to anything that runs. Its state is only the fold of the events that
it took, so a resumed sweep replays its event log and continues with the same state::

    rule = Config(grace_steps=3).build(steps=27)                  # of asha, median or fifo
    rule.take(Started("a", is_protected=True))                    # a trial was given a slot for the first time
    decision = rule.take(Reported("a", resource=3, value=1.25))   # GO_ON; STOP: "a" is over; PARK: its slot is free
    rule.take(Ended("b"))                                         # "b" failed, or a user ended it
    work = rule.next(is_exhausted=False)                          # a slot is free
    if isinstance(work, Resume):
        rule.take(Started(work.trial))                            # train the parked trial to its next report point
    elif work is Idle.NEW:
        ...                                                       # begin a new trial; if there is none, ask again
                                                                  # with is_exhausted=True
    # Idle.WAIT: nothing until a trial reports or ends; Idle.OVER: nothing more, parked trials have ended

`resource` is the amount that a trial was trained: a whole number of optimizer steps or examples.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from trainables.objective import Direction as Direction  # the rules take it from here
from trainables.specs import LARGEST_NUMBER, Spec


@dataclass(frozen=True, slots=True)
class Started:
    """A new, parked or interrupted trial got a slot."""

    trial: str
    is_protected: bool = False
    """Whether the trial is trained to the last point whatever it reports; other trials are compared with it."""
    is_in_tail: bool | None = None
    """Whether the trial was resumed although its rank was too low. None: the present rank decides; it may have changed
    between the decision and this event."""


@dataclass(frozen=True, slots=True)
class Reported:
    """A trial was evaluated at a point."""

    trial: str
    resource: int
    """Steps or examples of the trial so far."""
    value: float
    """Value of the metric. A trial with a value that is not finite is over."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial ended without a decision of the rule: it failed, diverged, was infeasible, or a user ended it."""

    trial: str
    is_diverged: bool = False
    """A diverged trial ranks last at the point where it would have reported next."""


RuleEvent = Started | Reported | Ended


class Decision(StrEnum):
    """What happens to a trial after its report."""

    GO_ON = "go_on"
    STOP = "stop"
    """The trial is over: it was stopped early, or has reached the last point."""
    PARK = "park"
    """The trial gives its slot back and may be resumed."""


@dataclass(frozen=True, slots=True)
class Resume:
    """A free slot goes to this parked trial."""

    trial: str


class Idle(StrEnum):
    """Use of a free slot when no parked trial is resumed."""

    NEW = "new"
    """A new trial."""
    WAIT = "wait"
    """No trial, until another one reports or ends."""
    OVER = "over"
    """No trial any more: the parked trials have ended."""


SlotUse = Resume | Idle


class TrialStatus(StrEnum):
    """State of a trial in its rule."""

    RUNNING = "running"
    PARKED = "parked"
    OVER = "over"


@dataclass
class TrialHistory:
    """A trial's state and reports in a rule."""

    is_protected: bool
    status: TrialStatus = TrialStatus.RUNNING
    resource: int = 0
    """Steps or examples at the last report."""
    losses: list[float] = field(default_factory=list)
    """Losses of the reports, in order."""
    worse_in_a_row: int = 0
    """Latest reports in a row that were worse than the best one."""

    @property
    def best(self) -> float:
        """Returns the lowest loss so far; infinite before the first report."""
        return min(self.losses, default=math.inf)


class Rule:
    """Folds events and decides which trials go on. Subclasses judge reports and choose the trials to resume."""

    def __init__(
        self, points: Sequence[int], direction: Direction = "min", overfit_patience: int | None = None
    ) -> None:
        """Builds a rule that has taken no event. Trials report at rising `points` and are complete at the last one.

        `overfit_patience` is the early exit for overfitting of ALTO (arXiv 2604.05426), see `SchedulerSettings`.
        """
        if not points or any(low >= high for low, high in pairwise(points)):
            raise ValueError(f"points must rise and must not be empty: {points}")
        self.points = tuple(points)
        self._sign = 1.0 if direction == "min" else -1.0
        self._patience = overfit_patience
        self._trials: dict[str, TrialHistory] = {}
        self._running: set[str] = set()
        self.parks_protected = False
        """Whether a protected trial too is parked where others are. It goes on whatever its rank, but gives its slot
        back in between, so that a host whose trials are all parked can take another base."""

    def take(self, event: RuleEvent) -> Decision:
        """Folds an event into the state; returns the decision on its trial.

        A report at or before the trial's last one was judged already: the trial goes on. The end of an unknown trial
        changes nothing.

        Raises:
            ValueError: the trial reports but has not started.
        """
        match event:
            case Started():
                return self._start(event)
            case Ended():
                return self._end(event)
            case Reported():
                return self._report(event)

    def next(self, is_exhausted: bool) -> SlotUse:
        """Returns the use of a free slot. Changes no state: `Started` tells the rule what was done.

        `is_exhausted` means that there is no new trial to begin now.
        """
        if not is_exhausted:
            return Idle.NEW
        return Idle.WAIT if self._running else Idle.OVER

    def resumable(self) -> Iterator[str]:
        """Yields every parked trial that ranks high enough to go on, in the order of `next`."""
        yield from ()

    def status(self, trial: str) -> TrialStatus | None:
        """Returns the state of a trial; None if the rule does not know the trial."""
        known = self._trials.get(trial)
        return known.status if known is not None else None

    def resource(self, trial: str) -> int:
        """Returns the steps or examples at the trial's last report; 0 before the first."""
        return self._trials[trial].resource

    def next_point(self, trial: str) -> int | None:
        """Returns the trial's next report point; None after the last."""
        return next_point(self.points, self._trials[trial].resource)

    def rank(self, trial: str) -> tuple[int, int, int] | None:
        """Returns the trial's last rung, its place there from 1, and the number of trials ranked there.

        None for a trial that was not ranked, and under a rule that does not rank trials.
        """
        return None

    def is_due(self, trial: str) -> bool:
        """Tells whether a parked trial ranks high enough to go on from its rung."""
        return False

    def is_in_tail(self, trial: str) -> bool:
        """Tells whether the trial was ever resumed although its rank was too low."""
        return False

    def _judge(self, name: str, point: int, loss: float) -> Decision:
        """Records and judges a report, which is the last of the trial's losses. A loss that is not finite is inf."""
        raise NotImplementedError

    def _parked(self, name: str) -> None:
        """Records that the trial is parked."""

    def _unparked(self, name: str) -> None:
        """Records that the trial is no longer parked: it runs, or is over."""

    def _start(self, event: Started) -> Decision:
        trial = self._trials.get(event.trial)
        if trial is None:
            trial = self._trials[event.trial] = TrialHistory(event.is_protected)
        elif trial.status is TrialStatus.OVER:
            return Decision.STOP
        self._set_status(event.trial, trial, TrialStatus.RUNNING)
        return Decision.GO_ON

    def _end(self, event: Ended) -> Decision:
        trial = self._trials.get(event.trial)
        if trial is None or trial.status is TrialStatus.OVER:
            return Decision.STOP
        self._set_status(event.trial, trial, TrialStatus.OVER)
        point = self.next_point(event.trial)
        if event.is_diverged and point is not None:
            trial.losses.append(math.inf)
            self._judge(event.trial, point, math.inf)
        return Decision.STOP

    def _report(self, event: Reported) -> Decision:
        trial = self._trials.get(event.trial)
        if trial is None:
            raise ValueError(f"{event.trial} reports at {event.resource} and has not started")
        if trial.status is TrialStatus.OVER:
            return Decision.STOP
        if event.resource <= trial.resource:
            return Decision.GO_ON
        self._set_status(event.trial, trial, TrialStatus.RUNNING)
        loss = self._sign * event.value if math.isfinite(event.value) else math.inf
        trial.worse_in_a_row = trial.worse_in_a_row + 1 if loss > trial.best else 0
        trial.losses.append(loss)
        decision = Decision.GO_ON
        # One point, unless the report skipped some.
        for point in self.points[bisect_right(self.points, trial.resource) : bisect_right(self.points, event.resource)]:
            if decision is not Decision.STOP:
                decision = self._judge(event.trial, point, loss)
        trial.resource = event.resource
        decision = self._settled(trial, decision)
        if decision is Decision.STOP:
            self._set_status(event.trial, trial, TrialStatus.OVER)
        elif decision is Decision.PARK:
            self._set_status(event.trial, trial, TrialStatus.PARKED)
        return decision

    def _settled(self, trial: TrialHistory, decision: Decision) -> Decision:
        """Applies the limits that hold under every rule."""
        if trial.losses[-1] == math.inf or trial.resource >= self.points[-1]:
            return Decision.STOP
        if trial.is_protected:
            return decision if self.parks_protected and decision is Decision.PARK else Decision.GO_ON
        is_overfit = self._patience is not None and trial.worse_in_a_row >= self._patience
        return Decision.STOP if is_overfit else decision

    def _set_status(self, name: str, trial: TrialHistory, status: TrialStatus) -> None:
        was_parked, trial.status = trial.status is TrialStatus.PARKED, status
        if was_parked and status is not TrialStatus.PARKED:
            self._unparked(name)
        (self._running.add if status is TrialStatus.RUNNING else self._running.discard)(name)
        if status is TrialStatus.PARKED:
            self._parked(name)


def rungs(grace_steps: int, reduction_factor: int, steps: int) -> tuple[int, ...]:
    """Returns the steps of the rungs: grace_steps times powers of reduction_factor below `steps`, then `steps`.

    Multiplies integers: Ray's milestones (tune/schedulers/async_hyperband.py, 2.60) come from a floating-point
    logarithm, which can lose the top rung: (1, 1000, 10) gives 1, 10, 100.
    """
    points = []
    step = grace_steps
    while step < steps:
        points.append(step)
        step *= reduction_factor
    return (*points, steps)


def next_point(points: Sequence[int], step: int) -> int | None:
    """Returns the first report point after `step`; None if `step` is at or past the last one."""
    place = bisect_right(points, step)
    return points[place] if place < len(points) else None


class SchedulerSettings(Spec):
    """Report points at grace_steps, grace_steps x reduction_factor, ... and at the last step."""

    grace_steps: Annotated[int, Field(ge=1, le=LARGEST_NUMBER)] = 3
    """Steps that every trial gets: the first report point."""
    reduction_factor: Annotated[int, Field(ge=2, le=LARGEST_NUMBER)] = 3
    """Factor from each report point to the next. Under ASHA, one of this many trials goes on at a report point."""
    overfit_patience: Annotated[int, Field(ge=1, le=LARGEST_NUMBER)] | None = None
    """Reports in a row, all worse than a trial's best one, after which the trial ends and keeps the adapter of its best
    report (ALTO, arXiv 2604.05426). Left out: no trial ends this way."""
    metric: Literal["eval_loss"] | None = None
    """Metric by which the scheduler compares trials. eval_loss: the loss, while `objective` chooses the best trial.
    Left out: the objective's metric, or eval_loss if that is a score which trials get only at the last report point."""
    kind: str
    compares: ClassVar[bool] = True
    """Whether the reports of other trials decide which trials go on."""

    @property
    def parks(self) -> bool:
        """Tells whether trials may be parked at a report point and resumed later."""
        return False

    def points(self, steps: int) -> tuple[int, ...]:
        """Returns the report points of each trial in steps; the last one is `steps`."""
        return rungs(self.grace_steps, self.reduction_factor, steps)

    @abstractmethod
    def build(self, steps: int, direction: Direction = "min") -> Rule:
        """Builds a rule that has taken no event, for trials of `steps` steps."""

    def most_steps(self, steps: int, trials: int, slots: int, protects_first: bool = False) -> int:
        """Returns the maximum optimizer steps of a sweep of `trials` trials of `steps` steps, on `slots` slots."""
        return steps * trials

    def needs_tail(self, steps: int, trials: int) -> bool:
        """Tells whether no trial ranks high enough to reach the last step, so that the best one goes on anyway."""
        return False
