"""What a sweep's events add up to: the record of the sweep and of its trials. Pure.

What comes twice is left out before: see `first_wins`. A metric point is known by (trial_key, metric, step).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from search_spaces.space import Point
from sweeps.config.points import Scalar
from sweeps.record.events import (
    BaseEvaluated,
    DataPrepared,
    DriverLives,
    EarlierTrials,
    Event,
    HostsChanged,
    HostsStarted,
    PointInfeasible,
    RequestAnswered,
    SweepEnded,
    SweepPlanned,
    SweepStarted,
    TargetSettled,
    TrialEnded,
    TrialParked,
    TrialReported,
    TrialScored,
    TrialStarted,
    TrialState,
)
from trainables.contract import Device
from trainables.engine_paths import EnginePath
from trainables.objective import COSTS, LOWEST_LOSS, Objective


@dataclass(frozen=True)
class TrialRecord:
    """A trial as its events tell it."""

    trial_key: str
    number: int
    params: Mapping[str, Scalar]
    state: TrialState = TrialState.PENDING
    reason: str = ""
    step: int = 0
    best_step: int | None = None
    """Where the objective was best so far; None before the first report."""
    best_metrics: Mapping[str, float] = field(default_factory=dict)
    """The metrics at that step, with the scores of a finalist."""
    evals: tuple[tuple[int, Mapping[str, float]], ...] = ()
    """(step, metrics) of each report."""
    points: Mapping[int, int] = field(default_factory=dict)
    """Step of each report -> the report point that it is, in what rungs count: steps or examples."""
    adapter: str | None = None
    adapter_sha256: str | None = None
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    trainable_params: int = 0
    stopped_by_scheduler: bool = False
    may_go_on: bool = False
    """As that of `TrialEnded`."""
    spec: str = field(default="", compare=False)
    """As that of `TrialStarted`; none of a trial that never held a slot. The key stands for it."""
    point: Point | None = None
    """As that of `TrialStarted`."""
    repeats: str | None = None
    """As that of `TrialStarted`."""

    @property
    def reported_step(self) -> int:
        """The step of the last report; 0 before the first. `step` is larger where the trial ended after it."""
        return self.evals[-1][0] if self.evals else 0

    def adapter_folder(self, sweep: Path) -> Path | None:
        """The folder of the best adapter below a sweep's folder, for PEFT to load; None before the first report."""
        return None if self.adapter is None else sweep / self.adapter / "adapter"

    def value(self, metric: str) -> float:
        """The metric at the trial's best step, or one of its `COSTS`; NaN before its first report."""
        if metric in COSTS and self.best_metrics:
            return float(getattr(self, metric))
        return self.best_metrics.get(metric, math.nan)

    def value_at(self, step: int | None, metric: str) -> float:
        """The metric at the report of that step; NaN where there is none."""
        if step == self.best_step:
            return self.value(metric)
        return next((metrics[metric] for at, metrics in self.evals if at == step and metric in metrics), math.nan)


@dataclass(frozen=True)
class SweepRecord:
    """A sweep as its events tell it."""

    trials: Mapping[str, TrialRecord] = field(default_factory=dict)
    started: float | None = None
    resumed: float | None = None
    """When the present driver began."""
    drivers: int = 0
    """Number of processes that have driven the sweep so far."""
    config: str | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    latest: float | None = None
    """Time of the latest event; `DriverLives` and `RequestAnswered`, which may come without a driver, do not count."""
    lived_until: float = 0.0
    """As the latest `DriverLives` says."""
    spent_seconds: float = 0.0
    """Time that earlier drivers of this sweep took."""
    hosts: HostsStarted | None = None
    """The hosts of the present driver, as many as there are now; None until they are ready."""
    path: EnginePath | None = None
    """How the first driver's hosts computed passes, which those of later drivers do too; None where they told none."""
    host_seconds: Mapping[Device, float] = field(default_factory=dict)
    """Device -> number of hosts times the seconds that they were held, until the hosts that there are now began."""
    gpu_seconds: float = 0.0
    """The same for GPUs, of which a host may hold several."""
    ended: SweepEnded | None = None
    planned: SweepPlanned | None = None
    """None until there is a plan."""
    objectives: tuple[Objective, ...] = (LOWEST_LOSS,)
    """What decides which trial is better: the first ranks the trials; with several there is a Pareto set too."""
    data: Mapping[str, Scalar] = field(default_factory=dict)
    base: BaseEvaluated | None = None
    """The evaluation of the base without an adapter; None until there is one."""
    earlier: EarlierTrials | None = None
    """What `searcher.warm_start` found."""
    targets: Mapping[str, TargetSettled] = field(default_factory=dict)
    """Values of adapter.target_modules that are left out, or run under another name."""
    answered: frozenset[str] = frozenset()
    """Ids of the requests that were answered."""
    trials_to_stop: frozenset[str] = frozenset()
    """Keys of the trials that somebody asked to stop."""
    last_gain: str | None = None
    """Key of the trial that brought the last gain: see `TrialReported.is_gain`."""
    without_gain: int = 0
    """Trials that have reported for the first time since then."""
    added: tuple[Point, ...] = ()
    """The points that somebody asked to try, in the order in which they did: each is a trial beyond budget.trials."""
    changes: Mapping[str, Scalar | None] = field(default_factory=dict)
    """What somebody has changed while the sweep ran: key of the sweep file -> its value now."""
    was_reopened: bool = False
    """More was asked for after the sweep had ended, and no driver has taken it up yet."""

    @property
    def objective(self) -> Objective:
        """The first objective: it decides which step of a trial is its best, and which trial is."""
        return self.objectives[0]

    def judges(self, trial: TrialRecord | None) -> Objective:
        """What a trial is judged by: the objective, or the loss as long as its answers were not scored."""
        return self.objective if trial is None else self.objective.judging(trial.best_metrics)

    @property
    def peak_memory_bytes(self) -> int:
        """The most memory that a host has told of; 0 before the first report."""
        return max((trial.peak_memory_bytes for trial in self.trials.values()), default=0)

    def apply(self, event: Event) -> SweepRecord:
        """The record after `event`."""
        latest = self.latest if isinstance(event, RequestAnswered | DriverLives) else event.time
        return replace(self._after(event), latest=latest)

    def _after(self, event: Event) -> SweepRecord:
        match event:
            case SweepStarted():
                return self._started(event)
            case SweepPlanned():
                return replace(self, planned=self.planned or event)
            case HostsStarted() | HostsChanged() | DriverLives():
                return self._spends(event)
            case DataPrepared():
                return replace(self, data=event.summary)
            case BaseEvaluated():
                return replace(self, base=event)
            case TargetSettled():
                return replace(self, targets={**self.targets, event.value: event})
            case RequestAnswered():
                return self._request_answered(event)
            case EarlierTrials():
                return replace(self, earlier=event)
            case SweepEnded():
                return replace(self, ended=event, was_reopened=False)
            case _:
                trial = _trial_after(self.trials.get(event.trial_key), event)
                return replace(self._gained(event), trials={**self.trials, trial.trial_key: trial})

    def _gained(self, event: Event) -> SweepRecord:
        if not isinstance(event, TrialReported) or event.is_gain is None:
            return self
        if event.is_gain:
            return replace(self, last_gain=event.trial_key, without_gain=0)
        return replace(self, without_gain=self.without_gain + 1)

    def _started(self, event: SweepStarted) -> SweepRecord:
        if self.started is None:
            whole = replace(self, config=event.config, objectives=event.objectives(), fingerprints=event.fingerprints)
            return replace(whole, started=event.time, resumed=event.time, drivers=1)
        return replace(
            self,
            resumed=event.time,
            drivers=self.drivers + 1,
            spent_seconds=self.seconds_spent(),
            hosts=None,
            host_seconds=self.host_seconds_spent(),
            gpu_seconds=self.gpu_seconds_spent(),
            ended=None,
            was_reopened=False,
        )

    def _going_on(self) -> Mapping[str, TrialRecord]:
        """The trials as a driver with hosts resumes them: each with `may_go_on` becomes PAUSED.

        A finalist loses its scores then: with them no later step of it could be its best. Not before: a driver that
        finds no host leaves an ended sweep's result as it is.
        """
        taken_up = {
            key: replace(
                trial,
                state=TrialState.PAUSED,
                reason="",
                stopped_by_scheduler=False,
                may_go_on=False,
                best_metrics=dict(trial.evals).get(trial.best_step or 0, trial.best_metrics),
            )
            for key, trial in self.trials.items()
            if trial.may_go_on
        }
        return {**self.trials, **taken_up} if taken_up else self.trials

    def _spends(self, event: HostsStarted | HostsChanged | DriverLives) -> SweepRecord:
        if isinstance(event, DriverLives):
            return replace(self, lived_until=event.time)
        if isinstance(event, HostsStarted):
            return replace(self._hosts_started(event), trials=self._going_on())
        if self.hosts is None:
            return self
        now = event.model_dump(include={"hosts", "slots", "held"}) | {"since": event.time, "silent": event.silent}
        spent, of_gpus = self.host_seconds_spent(event.time), self.gpu_seconds_spent(event.time)
        return replace(self, hosts=self.hosts.model_copy(update=now), host_seconds=spent, gpu_seconds=of_gpus)

    def _hosts_started(self, event: HostsStarted) -> SweepRecord:
        seconds = {**self.host_seconds, event.device: self.host_seconds.get(event.device, 0.0) + event.held_seconds}
        of_gpus = 0.0 if event.device == "cpu" else event.gpus_per_host * event.held_seconds
        hosts = event.model_copy(update={"since": event.time})
        path = self.path or (None if event.settled is None else event.settled.path)
        return replace(self, path=path, hosts=hosts, host_seconds=seconds, gpu_seconds=self.gpu_seconds + of_gpus)

    def _request_answered(self, event: RequestAnswered) -> SweepRecord:
        answered = self.answered | {event.request}
        if not event.is_accepted:
            return replace(self, answered=answered)
        stopped = {event.trial_key} if event.trial_key is not None else set()
        asks_for_more = event.point is not None or bool(event.changes)
        return replace(
            self,
            answered=answered,
            trials_to_stop=self.trials_to_stop | stopped,
            added=self.added if event.point is None else (*self.added, event.point),
            changes={**self.changes, **event.changes},
            was_reopened=self.was_reopened or (asks_for_more and self.ended is not None),
        )

    @property
    def known_until(self) -> float:
        """When a driver is last known to have lived; 0 before the first event."""
        return max(self.latest or 0.0, self.lived_until)

    def seconds_spent(self, now: float | None = None) -> float:
        """Seconds that all drivers have spent until `now`, else `known_until`, without the pauses between them."""
        return self.spent_seconds + _lasted(self.resumed, self.known_until if now is None else now)

    def host_seconds_spent(self, now: float | None = None) -> dict[Device, float]:
        """Device -> number of hosts times the seconds that they were held, until `now`, else `known_until`."""
        seconds = dict(self.host_seconds)
        if self.hosts is not None:
            held = self.hosts.held * _lasted(self.hosts.since, self.known_until if now is None else now)
            seconds[self.hosts.device] = seconds.get(self.hosts.device, 0.0) + held
        return seconds

    def gpu_seconds_spent(self, now: float | None = None) -> float:
        """Number of GPUs times the seconds that hosts held them, as in `host_seconds_spent`; 0 on a CPU."""
        if self.hosts is None or self.hosts.device == "cpu":
            return self.gpu_seconds
        lasted = _lasted(self.hosts.since, self.known_until if now is None else now)
        return self.gpu_seconds + self.hosts.held * self.hosts.gpus_per_host * lasted

    @property
    def is_finished(self) -> bool:
        """Whether the sweep ended by itself or by its budget, with every trial in a final state, and is to stay so."""
        over = self.ended is not None and self.ended.reason in ("finished", "budget") and not self.was_reopened
        return over and all(trial.state.is_final for trial in self.trials.values())

    def trials_in_all(self, at_launch: int | None) -> int | None:
        """budget.trials as it is now, and a trial for each added point; `at_launch` is what it was then, if known."""
        now = self.changes.get("budget.trials", at_launch)
        return now + len(self.added) if isinstance(now, int) else None

    @property
    def repeats(self) -> int:
        """Trials that train the point of another one again; the budget and the trials in all do not count them."""
        return sum(trial.repeats is not None for trial in self.trials.values())

    def rungs(self) -> list[tuple[int, int, int]]:
        """(step, trials that have reported there, those of them that are parked there) for each report point.

        Where rungs count examples, trials reach a rung at different steps: `step` is the lowest. Repeats are left out.
        """
        reports = [trial for trial in self.trials.values() if trial.repeats is None and trial.evals]
        found = []
        for place in range(max((len(trial.evals) for trial in reports), default=0)):
            here = [trial for trial in reports if len(trial.evals) > place]
            parked = sum(len(t.evals) == place + 1 and t.state is TrialState.PARKED for t in here)
            found.append((min(trial.evals[place][0] for trial in here), len(here), parked))
        return found

    def counts(self) -> dict[str, int]:
        """State -> number of trials in it, for the states that occur."""
        found = Counter(trial.state for trial in self.trials.values())
        return {state.value: found[state] for state in TrialState if state in found}


def _lasted(since: float | None, until: float | None) -> float:
    """Seconds between two times; 0 where one is not known, or where a clock was set back in between."""
    return 0.0 if since is None or until is None else max(0.0, until - since)


def _trial_after(
    known: TrialRecord | None,
    event: TrialStarted | PointInfeasible | TrialReported | TrialScored | TrialParked | TrialEnded,
) -> TrialRecord:
    if isinstance(event, TrialStarted | PointInfeasible):
        known = known or TrialRecord(event.trial_key, event.number, event.params, point=event.point)
    assert known is not None, "a trial begins before it reports, is parked or ends"
    match event:
        case TrialStarted():
            return replace(known, state=TrialState.RUNNING, reason="", spec=event.spec, repeats=event.repeats)
        case PointInfeasible():
            return replace(known, state=TrialState.INFEASIBLE, reason=event.reason, repeats=event.repeats)
        case TrialReported():
            return _reported(known, event)
        case TrialScored():
            return replace(known, best_metrics={**known.best_metrics, **event.metrics})
        case TrialParked():
            return replace(known, state=TrialState.PARKED, reason="")
        case TrialEnded():
            return _ended(known, event)


def _reported(trial: TrialRecord, event: TrialReported) -> TrialRecord:
    report = event.report
    return replace(
        trial,
        step=report.step,
        best_step=report.best_step,
        best_metrics=report.best_metrics,
        evals=(*trial.evals, (report.step, report.metrics)),
        points={**trial.points, report.step: report.point},
        adapter=event.adapter or trial.adapter,
        adapter_sha256=event.adapter_sha256 if event.adapter else trial.adapter_sha256,
        tokens=report.tokens,
        seconds=report.seconds,
        peak_memory_bytes=max(trial.peak_memory_bytes, report.peak_memory_bytes),
        trainable_params=report.trainable_params,
    )


def _ended(trial: TrialRecord, event: TrialEnded) -> TrialRecord:
    trial = replace(trial, state=event.state, reason=event.reason, may_go_on=event.may_go_on)
    if event.state is TrialState.STOPPED:
        trial = replace(trial, stopped_by_scheduler=not event.by_person_or_budget)
    if event.history:
        last = event.history[-1]
        trial = replace(trial, step=last.step, tokens=last.tokens, seconds=last.seconds)
    return trial


def first_wins(events: Iterable[Event], record: SweepRecord | None = None) -> Iterator[tuple[Event, SweepRecord]]:
    """Passes on each event that says something new, with the record after it.

    A report at or before the trial's last reported step is dropped, and steps that are known are removed from its
    history: after a restart a step may be trained again. Its first numbers are kept, as are the first evaluation of the
    base and the first scores of a finalist.
    """
    record = record or SweepRecord()
    for event in events:
        if isinstance(event, TargetSettled) and event.value in record.targets:
            continue
        if isinstance(event, PointInfeasible) and event.trial_key in record.trials:
            continue
        if isinstance(event, BaseEvaluated) and record.base is not None:
            continue
        if isinstance(event, TrialReported):
            known = record.trials[event.trial_key]
            if event.report.step <= known.reported_step:
                continue
            fresh = tuple(step for step in event.report.history if step.step > known.step)
            event = event.model_copy(update={"report": event.report.model_copy(update={"history": fresh})})
        if isinstance(event, TrialScored):
            known = record.trials[event.trial_key]
            if event.step != known.best_step or event.metrics.keys() <= known.best_metrics.keys():
                continue
        if isinstance(event, TrialEnded):
            fresh = tuple(step for step in event.history if step.step > record.trials[event.trial_key].step)
            event = event.model_copy(update={"history": fresh})
        record = record.apply(event)
        yield event, record
