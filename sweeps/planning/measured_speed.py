"""What a sweep's event log says of the speed of its hosts. Pure.

A pass of a host trains several trials, and each of their steps says how long it took, so the time of a host is the
time in which at least one step runs, not the sum over the trials. A trial goes to the host with the fewest: of several
hosts, as many train as there are steps at that time, or all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev

from sweeps.planning.rates import Rate, RateKey
from sweeps.record.events import (
    BaseEvaluated,
    DataPrepared,
    Event,
    HostsChanged,
    HostsStarted,
    SweepStarted,
    TrialEnded,
    TrialReported,
)
from trainables.contract import StepRecord

LEAST_STEPS = 6
"""Steps below which a sweep is no measurement: the first ones of a process are slow."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Trained:
    """Steps of one trial in a row."""

    before: StepRecord | None
    """The step before them; None where they are the trial's first."""
    steps: Sequence[StepRecord]
    evaluated: float | None
    """When the evaluation after the last of them was done; None where there was none."""


@dataclass
class _Gathered:
    """What is gathered of the trials that one driver trained."""

    steps: list[Interval] = field(default_factory=list)
    evaluations: list[Interval] = field(default_factory=list)
    per_token: list[float] = field(default_factory=list)
    tokens: int = 0

    def add(self, trained: Trained) -> None:
        before = trained.before
        for step in trained.steps:
            taken = step.seconds - (before.seconds if before is not None else 0.0)
            tokens = step.tokens - (before.tokens if before is not None else 0)
            if taken >= 0 and step.step == (before.step if before is not None else 0) + 1:
                self.steps.append((step.time - taken, step.time))
                self.tokens += tokens
                self.per_token += [taken / tokens] if tokens > 0 else []
            before = step
        # The step is told by the host's clock, and the evaluation by that of the trial's process, on another machine.
        if trained.evaluated is not None and before is not None and trained.evaluated >= before.time:
            self.evaluations.append((before.time, trained.evaluated))

    @property
    def working(self) -> float:
        """Seconds in which at least one step or evaluation runs."""
        return covered([*self.steps, *self.evaluations])


@dataclass
class _Log:
    """What the events of the latest driver say."""

    work: _Gathered = field(default_factory=_Gathered)
    known: dict[str, StepRecord] = field(default_factory=dict)
    """The latest step of each trial, of earlier drivers too."""
    trials: set[str] = field(default_factory=set)
    rows: int = 0
    row_tokens: float = 0.0
    started: float = 0.0
    hosts: HostsStarted | None = None
    """None, too, when their number has changed, or one may hang: what one host usually does cannot be told then."""
    latest: float = 0.0

    def take(self, event: Event) -> None:
        self.latest = event.time
        match event:
            case SweepStarted():
                self.work, self.trials, self.started, self.hosts = _Gathered(), set(), event.time, None
            case HostsStarted():
                self.hosts = event
            case HostsChanged():
                self.hosts = None
            case DataPrepared():
                trained = int(event.summary.get("train_rows", 0))
                self.row_tokens = int(event.summary.get("train_tokens", 0)) / trained if trained else 0.0
                self.rows = int(event.summary.get("eval_rows", 0))
            case BaseEvaluated():
                self.rows = event.rows
            case TrialReported():
                self._add(event.trial_key, event.report.history, event.report.time)
            case TrialEnded():
                self._add(event.trial_key, event.history, None)

    def _add(self, trial_key: str, history: Sequence[StepRecord], evaluated: float | None) -> None:
        self.trials.add(trial_key)
        self.work.add(Trained(self.known.get(trial_key), history, evaluated if history else None))
        if history:
            self.known[trial_key] = history[-1]


def of_sweep(events: Iterable[Event], key: RateKey) -> Rate | None:
    """The rate that the latest driver of a sweep has shown; None when it took too few steps to tell."""
    log = _Log()
    for event in events:
        log.take(event)
    if log.hosts is None or len(log.work.steps) < LEAST_STEPS or not log.work.evaluations:
        return None
    rate = _rate(log.work, key, log.hosts.hosts, log.rows, log.row_tokens)
    idle = max(0.0, log.latest - log.hosts.time - log.work.working)
    return rate.model_copy(
        update={
            "start_seconds": max(0.0, log.hosts.time - log.started),
            "trial_seconds": idle / len(log.trials),
            "host_slots": log.hosts.slots / log.hosts.hosts,
            "time": log.latest,
        }
    )


def of_steps(trained: Sequence[Trained], key: RateKey, evaluation_rows: int, row_tokens: float) -> Rate:
    """The rate of trials that one host trained side by side, some steps each; `row_tokens` are those of a mean row."""
    work = _Gathered()
    for trial in trained:
        work.add(trial)
    return _rate(work, key, 1, evaluation_rows, row_tokens)


def _rate(work: _Gathered, key: RateKey, hosts: int, evaluation_rows: int, row_tokens: float) -> Rate:
    count = max(1, len(work.steps))
    stepping = covered(work.steps, hosts)
    working = covered([*work.steps, *work.evaluations], hosts)
    slots = max(1.0, sum(end - begin for begin, end in work.steps) / stepping) if stepping else 1.0
    mean = fmean(work.per_token) if work.per_token else 0.0
    return Rate(
        key=key,
        tokens_per_step=work.tokens / count,
        slots=slots,
        step_seconds=stepping * slots / count,
        evaluation_seconds=(working - stepping) / max(1, len(work.evaluations)),
        evaluation_rows=evaluation_rows,
        row_tokens=row_tokens,
        start_seconds=0.0,
        trial_seconds=0.0,
        spread=pstdev(work.per_token) / mean if mean else 0.0,
        steps=len(work.steps),
        time=max((end for _, end in [*work.steps, *work.evaluations]), default=0.0),
    )


def covered(intervals: Iterable[Interval], most: int = 1) -> float:
    """Seconds in which at least one of the intervals runs; those in which several do count so often, up to `most`."""
    ends = sorted(each for begin, end in intervals for each in ((begin, 1), (end, -1)))
    total, running, since = 0.0, 0, 0.0
    for time, more in ends:
        total += min(running, most) * (time - since)
        running, since = running + more, time
    return total
