"""Folds a sweep's events into a record of the sweep and of its trials. Pure.

`new_events` removes repeated events before. (trial_key, metric, step) identifies a value of a metric.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from search_spaces.space import Point
from sweeps.config.points import Scalar
from sweeps.record.events import (
    BaseEvaluated,
    DataPrepared,
    DriverLives,
    EarlierTrials,
    EvaluatedPart,
    Event,
    HostsChanged,
    HostsStarted,
    PathSettled,
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
from trainables.specs import TrialSpec


@dataclass(frozen=True)
class TrialRecord:
    """A trial after its events so far."""

    trial_key: str
    number: int
    params: Mapping[str, Scalar]
    state: TrialState = TrialState.PENDING
    reason: str = ""
    step: int = 0
    best_step: int | None = None
    """Step with the best objective so far; None before the first report."""
    best_metrics: Mapping[str, float] = field(default_factory=dict)
    """Metrics at `best_step`, with the scores of a finalist."""
    unscored: Mapping[str, str] = field(default_factory=dict)
    """Metric -> why it had no value when the answers were last scored; see `Evaluation.unscored`."""
    evals: tuple[tuple[int, Mapping[str, float]], ...] = ()
    """(step, metrics) of each report."""
    points: Mapping[int, int] = field(default_factory=dict)
    """Step of each report -> its report point, in the unit of rungs: steps or examples."""
    parts: Mapping[int, EvaluatedPart] = field(default_factory=dict)
    """Step of each report on a part of the evaluation rows -> the part; see `best_part`."""
    at_rung: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Step of each report -> `TrialReported.at_rung`, if there is one."""
    has_all_rows: bool = False
    """Whether the best step was evaluated on all rows after the trial was over."""
    adapter: str | None = None
    adapter_sha256: str | None = None
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    trainable_params: int = 0
    stopped_by_scheduler: bool = False
    may_go_on: bool = False
    """See `TrialEnded`."""
    spec: str = field(default="", compare=False)
    """See `TrialStarted`; empty if the trial never held a slot. Not compared, because the key identifies it."""
    point: Point = field(default_factory=dict)
    repeats: str | None = None
    """See `TrialStarted`."""

    @property
    def base_name(self) -> str:
        """Returns the name of the trial's base; empty if the trial never held a slot."""
        return _base_name(self.spec) if self.spec else ""

    @property
    def reported_step(self) -> int:
        """Returns the step of the last report; 0 before the first. `step` is larger if the trial ended later."""
        return self.evals[-1][0] if self.evals else 0

    @property
    def lacking(self) -> dict[str, str]:
        """Returns metric -> why it has no value at the best step. The next driver scores the answers again."""
        return {name: why for name, why in self.unscored.items() if name not in self.best_metrics}

    @property
    def best_part(self) -> EvaluatedPart | None:
        """Returns the part of the rows behind `best_metrics`; None for all rows, and before the first report."""
        return None if self.has_all_rows or self.best_step is None else self.parts.get(self.best_step)

    def measured_at(self, step: int | None, metric: str) -> float:
        """Returns the metric on the rows that were evaluated at the report of a step; NaN if there is none."""
        part = self.best_part if step == self.best_step else self.parts.get(step or 0)
        return self.value_at(step, metric) if part is None else part.metrics.get(metric, math.nan)

    def adapter_folder(self, sweep: Path) -> Path | None:
        """Returns the best adapter's folder below a sweep's folder, for PEFT to load; None before the first report."""
        return None if self.adapter is None else sweep / self.adapter / "adapter"

    def value(self, metric: str) -> float:
        """Returns the metric at the trial's best step, or one of its `COSTS`; NaN if there is no value."""
        if metric in COSTS and self.best_metrics:
            return float(getattr(self, metric))
        return self.best_metrics.get(metric, math.nan)

    def value_at(self, step: int | None, metric: str) -> float:
        """Returns the metric at the report of a step; NaN if there is none."""
        if step == self.best_step:
            return self.value(metric)
        return next((metrics[metric] for at, metrics in self.evals if at == step and metric in metrics), math.nan)


@dataclass(frozen=True)
class SweepRecord:
    """A sweep after its events so far."""

    trials: Mapping[str, TrialRecord] = field(default_factory=dict)
    started: float | None = None
    resumed: float | None = None
    """When the latest driver began."""
    drivers: int = 0
    """Number of processes that have driven the sweep so far."""
    config: str | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    latest: float | None = None
    """Time of the latest event except `DriverLives` and `RequestAnswered`. An answer may come without a driver."""
    lived_until: float = 0.0
    """Time of the latest `DriverLives`."""
    spent_seconds: float = 0.0
    """Seconds that earlier drivers of this sweep ran."""
    hosts: HostsStarted | None = None
    """The hosts of the latest driver at their present number; None until they are ready."""
    path: EnginePath | None = None
    """How the first hosts computed passes; hosts of later drivers do the same. None if no hosts have reported it."""
    paths: Mapping[str, EnginePath] = field(default_factory=dict)
    """`PathSettled.base` -> how its first host computed passes, in a sweep that searches its base."""
    host_seconds: Mapping[Device, float] = field(default_factory=dict)
    """Device -> number of hosts times the seconds for which they were held, until `hosts.since`."""
    gpu_seconds: float = 0.0
    """Number of GPUs times the seconds for which hosts held them, until `hosts.since`."""
    ended: SweepEnded | None = None
    planned: SweepPlanned | None = None
    objectives: tuple[Objective, ...] = (LOWEST_LOSS,)
    """The first objective ranks the trials. Several objectives give a Pareto set too."""
    data: Mapping[str, Scalar] = field(default_factory=dict)
    base: BaseEvaluated | None = None
    """The base that was evaluated first; see `base_of`."""
    bases: Mapping[str, BaseEvaluated] = field(default_factory=dict)
    """`BaseEvaluated.base` -> the evaluation."""
    earlier: EarlierTrials | None = None
    targets: Mapping[str, TargetSettled] = field(default_factory=dict)
    """Values of adapter.target_modules that are left out, or run under another name."""
    answered: frozenset[str] = frozenset()
    """Ids of the requests that were answered."""
    trials_to_stop: frozenset[str] = frozenset()
    """Keys of the trials that users asked to stop."""
    last_gain: str | None = None
    """Key of the trial that brought the last gain: see `TrialReported.is_gain`."""
    without_gain: int = 0
    """Trials since the last gain whose first report brought no gain."""
    added: tuple[Point, ...] = ()
    """Points that users asked to try, in the order of the requests. Each is a trial beyond budget.trials."""
    changes: Mapping[str, Scalar | None] = field(default_factory=dict)
    """Key of the sweep file -> its value now, for keys that users have changed since the launch."""
    was_reopened: bool = False
    """Whether users asked for more after the sweep had ended, and no driver has begun since."""

    @property
    def objective(self) -> Objective:
        """Returns the first objective. It decides which step of a trial is its best, and which trial is the best."""
        return self.objectives[0]

    def judges(self, trial: TrialRecord | None) -> Objective:
        """Returns what a trial is judged by: the objective, or the loss as long as its answers are not scored."""
        return self.objective if trial is None else self.objective.judging(trial.best_metrics)

    def base_of(self, trial: TrialRecord) -> BaseEvaluated | None:
        """Returns the evaluation of the base that a trial started from; None if that was not evaluated."""
        return self.base if "" in self.bases else self.bases.get(trial.base_name)

    @property
    def peak_memory_bytes(self) -> int:
        """Returns the most memory that a host has reported; 0 before the first report."""
        return max((trial.peak_memory_bytes for trial in self.trials.values()), default=0)

    def apply(self, event: Event) -> SweepRecord:
        """Returns the record after `event`."""
        latest = self.latest if isinstance(event, RequestAnswered | DriverLives) else event.time
        return replace(self._after(event), latest=latest)

    def _after(self, event: Event) -> SweepRecord:
        match event:
            case SweepStarted():
                return self._started(event)
            case SweepPlanned():
                return replace(self, planned=self.planned or event)
            case HostsStarted() | HostsChanged() | PathSettled() | DriverLives():
                return self._spends(event)
            case DataPrepared():
                return replace(self, data=event.summary)
            case BaseEvaluated():
                return replace(self, base=self.base or event, bases={**self.bases, event.base: event})
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
        """Returns the trials as a driver with hosts resumes them: each trial with `may_go_on` becomes PAUSED.

        A finalist loses its scores then: with them no later step of the trial could be its best. The scores stay until
        hosts are ready, so a driver that finds no host leaves an ended sweep's result as it is.
        """
        taken_up = {
            key: replace(
                trial,
                state=TrialState.PAUSED,
                reason="",
                stopped_by_scheduler=False,
                may_go_on=False,
                has_all_rows=False,
                best_metrics=dict(trial.evals).get(trial.best_step or 0, trial.best_metrics),
            )
            for key, trial in self.trials.items()
            if trial.may_go_on
        }
        return {**self.trials, **taken_up} if taken_up else self.trials

    def _spends(self, event: HostsStarted | HostsChanged | PathSettled | DriverLives) -> SweepRecord:
        if isinstance(event, DriverLives):
            return replace(self, lived_until=event.time)
        if isinstance(event, PathSettled):
            return replace(self, paths={event.base: event.path, **self.paths})
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
        """Returns the time at which a driver is last known to have lived; 0 before the first event."""
        return max(self.latest or 0.0, self.lived_until)

    def seconds_spent(self, now: float | None = None) -> float:
        """Returns the seconds that all drivers ran until `now`, or `known_until`, without the pauses between them."""
        return self.spent_seconds + _lasted(self.resumed, self.known_until if now is None else now)

    def host_seconds_spent(self, now: float | None = None) -> dict[Device, float]:
        """Returns device -> number of hosts times the seconds that they were held, until `now` or `known_until`."""
        seconds = dict(self.host_seconds)
        if self.hosts is not None:
            held = self.hosts.held * _lasted(self.hosts.since, self.known_until if now is None else now)
            seconds[self.hosts.device] = seconds.get(self.hosts.device, 0.0) + held
        return seconds

    def gpu_seconds_spent(self, now: float | None = None) -> float:
        """Returns the number of GPUs times the seconds that hosts held them, until `now` or `known_until`."""
        if self.hosts is None or self.hosts.device == "cpu":
            return self.gpu_seconds
        lasted = _lasted(self.hosts.since, self.known_until if now is None else now)
        return self.gpu_seconds + self.hosts.held * self.hosts.gpus_per_host * lasted

    @property
    def is_finished(self) -> bool:
        """Tells whether the sweep ended by itself or its budget, all trials are final, and no one asked for more."""
        over = self.ended is not None and self.ended.reason in ("finished", "budget") and not self.was_reopened
        return over and all(trial.state.is_final for trial in self.trials.values())

    def trials_in_all(self, at_launch: int | None) -> int | None:
        """Returns the present budget.trials, else `at_launch`, plus one for each added point; None if it is unknown."""
        now = self.changes.get("budget.trials", at_launch)
        return now + len(self.added) if isinstance(now, int) else None

    @property
    def repeats(self) -> int:
        """Counts trials that repeat another trial's point. Neither budget.trials nor `trials_in_all` counts them."""
        return sum(trial.repeats is not None for trial in self.trials.values())

    def rungs(self) -> list[tuple[int, int, int]]:
        """Returns (step, trials that have reported there, trials that are parked there) for each report point.

        If rungs count examples, trials reach a rung at different steps: `step` is the lowest. Repeats are left out.
        """
        reports = [trial for trial in self.trials.values() if trial.repeats is None and trial.evals]
        found = []
        for place in range(max((len(trial.evals) for trial in reports), default=0)):
            here = [trial for trial in reports if len(trial.evals) > place]
            parked = sum(len(t.evals) == place + 1 and t.state is TrialState.PARKED for t in here)
            found.append((min(trial.evals[place][0] for trial in here), len(here), parked))
        return found

    def counts(self) -> dict[str, int]:
        """Returns state -> number of trials, for the states that occur."""
        found = Counter(trial.state for trial in self.trials.values())
        return {state.value: found[state] for state in TrialState if state in found}


@lru_cache(maxsize=10_000)
def _base_name(spec: str) -> str:
    return TrialSpec.model_validate_json(spec).base_name


def _lasted(since: float | None, until: float | None) -> float:
    """Returns the seconds between two times; 0 if one is unknown, or if a clock was set back in between."""
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
            whole, metrics = event.has_all_rows or known.has_all_rows, {**known.best_metrics, **event.metrics}
            return replace(known, best_metrics=metrics, unscored=event.unscored, has_all_rows=whole)
        case TrialParked():
            return replace(known, state=TrialState.PARKED, reason="")
        case TrialEnded():
            return _ended(known, event)


def _reported(trial: TrialRecord, report: TrialReported) -> TrialRecord:
    return replace(
        trial,
        step=report.step,
        best_step=report.best_step,
        best_metrics=report.best_metrics,
        unscored={**trial.unscored, **report.unscored},
        evals=(*trial.evals, (report.step, report.metrics)),
        points={**trial.points, report.step: report.report_point},
        parts={**trial.parts, report.step: report.part} if report.part is not None else trial.parts,
        at_rung={**trial.at_rung, report.step: report.at_rung} if report.at_rung is not None else trial.at_rung,
        adapter=report.adapter or trial.adapter,
        adapter_sha256=report.adapter_sha256 if report.adapter else trial.adapter_sha256,
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


def new_events(events: Iterable[Event], record: SweepRecord | None = None) -> Iterator[tuple[Event, SweepRecord]]:
    """Yields each event that says something new, with the record after the event.

    After a restart a step may be trained again; its first numbers are kept. So a report at or before the trial's last
    reported step is dropped, and known steps are removed from histories. The first evaluation of the base and the first
    scores of a finalist are kept, too.
    """
    record = record or SweepRecord()
    for event in events:
        if isinstance(event, TargetSettled) and event.value in record.targets:
            continue
        if isinstance(event, PointInfeasible) and event.trial_key in record.trials:
            continue
        if isinstance(event, BaseEvaluated) and event.base in record.bases:
            continue
        if isinstance(event, TrialReported):
            known = record.trials[event.trial_key]
            if event.step <= known.reported_step:
                continue
            fresh = tuple(step for step in event.history if step.step > known.step)
            event = event.model_copy(update={"history": fresh})
        if isinstance(event, TrialScored):
            known = record.trials[event.trial_key]
            is_known = event.metrics.keys() <= known.best_metrics.keys() and event.unscored == known.unscored
            is_known = is_known and (known.best_part is None or not event.has_all_rows)
            if event.step != known.best_step or is_known:
                continue
        if isinstance(event, TrialEnded):
            fresh = tuple(step for step in event.history if step.step > record.trials[event.trial_key].step)
            event = event.model_copy(update={"history": fresh})
        record = record.apply(event)
        yield event, record
