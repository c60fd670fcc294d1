"""The events of a sweep: what can happen in it, each kind a class and a line of JSON. Pure.

Events are the sweep's only state: the driver appends them to `events.jsonl` in the sweep's folder, and the progress
display, the tracking writer and the closing table are all folds over them (see `sweeps.record.sweep_record`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter

from cluster.pace import Silent
from search_spaces.domains import Value
from search_spaces.space import Point
from sweeps.config.passwords import without_passwords
from sweeps.config.points import Scalar
from trainables.contract import Device, Failure, Report, StepRecord
from trainables.engine_paths import Settled
from trainables.inputs import json_text
from trainables.inputs.legible import Words
from trainables.objective import LOWEST_LOSS, Metrics, Objective
from trainables.specs import Spec

Told = Annotated[Words, AfterValidator(without_passwords)]
"""Text from a library or a trainable. It is shown and kept, so passwords in its URIs are removed."""


class TrialState(StrEnum):
    """Where a trial stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PARKED = "PARKED"
    """It waits at a report point without a slot; the scheduler may resume it."""
    PAUSED = "PAUSED"
    """The sweep was interrupted; the trial goes on when the sweep does."""
    STOPPED = "STOPPED"
    """Ended early by the scheduler or by the budget."""
    COMPLETED = "COMPLETED"
    DIVERGED = "DIVERGED"
    INFEASIBLE = "INFEASIBLE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    FAILED = "FAILED"

    @classmethod
    def after(cls, failure: Failure) -> TrialState:
        """Where a trial stands that fails in this way."""
        return cls(failure.kind.upper())

    @property
    def is_final(self) -> bool:
        """Whether the trial is over for good."""
        return self not in (TrialState.PENDING, TrialState.RUNNING, TrialState.PARKED, TrialState.PAUSED)

    @property
    def is_ranked(self) -> bool:
        """Whether the trial may be the best one."""
        return self in (TrialState.COMPLETED, TrialState.STOPPED)

    @property
    def counts_as_trial(self) -> bool:
        """Whether the trial counts towards budget.trials. An infeasible one does not: another takes its place."""
        return self is not TrialState.INFEASIBLE


class SweepStarted(Spec):
    """The sweep begins, or goes on."""

    type: Literal["sweep_started"] = "sweep_started"
    time: float
    config: str
    """The resolved configuration as JSON. config.json must still hold the same when the sweep goes on."""
    fingerprints: dict[str, str] = Field(default_factory=dict)
    """Identify the base model and the data, which must not have changed when the sweep goes on."""
    sweep_id: str

    def objectives(self) -> tuple[Objective, ...]:
        """What decides which trial is better, as the configuration says."""
        try:
            told = json_text.parse(self.config).get("objective") or {}
            return tuple(Objective.model_validate(each) for each in (told if isinstance(told, list) else [told]))
        except (ValueError, AttributeError):
            return (LOWEST_LOSS,)


class SweepPlanned(Spec):
    """What the sweep was expected to take when it was launched."""

    type: Literal["sweep_planned"] = "sweep_planned"
    time: float
    steps: int
    seconds: float | None
    """None when no rate was known."""
    memory_bytes: int | None = None
    """Memory of one host with its slots; None where only the loaded base tells."""


class HostsStarted(Spec):
    """The driver's hosts are ready."""

    type: Literal["hosts_started"] = "hosts_started"
    time: float
    since: float
    """When the driver asked for the hosts."""
    hosts: int
    slots: int
    """Slots of all hosts together."""
    held: int
    """Hosts that hold their machines, also while they load or leave: their time is spent."""
    held_seconds: float
    """For how long hosts have held their machines until `time`, added up."""
    device: Device
    gpus_per_host: int = 1
    """GPUs that each host holds; says nothing on a CPU."""
    engine: str = ""
    """What computes the losses of trials on the first host; empty where the trainable does not say."""
    settled: Settled | None = None
    """How passes are computed, as the first host's self-test settled it; None where there was nothing to settle."""
    silent: tuple[Silent, ...] = ()
    """Those that may hang."""


class HostsChanged(Spec):
    """Hosts came or went while the sweep runs, or one may hang, or goes on. All else is as in `HostsStarted`."""

    type: Literal["hosts_changed"] = "hosts_changed"
    time: float
    hosts: int
    slots: int
    held: int
    silent: tuple[Silent, ...] = ()


class DriverLives(Spec):
    """The driver goes on, and nothing else has happened for a minute: its time is spent until now."""

    type: Literal["driver_lives"] = "driver_lives"
    time: float


class DataPrepared(Spec):
    """The data is tokenised, and its fingerprint is known."""

    type: Literal["data_prepared"] = "data_prepared"
    time: float
    summary: dict[str, Scalar]
    warnings: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """What is odd about the rows, a line each."""


class BaseEvaluated(Spec):
    """The base without an adapter was evaluated: where every trial starts from."""

    type: Literal["base_evaluated"] = "base_evaluated"
    time: float
    metrics: Metrics
    """As `Evaluation.metrics`."""
    rows: int
    hardware: str
    """As `Evaluation.hardware`."""
    answered: int = 0
    """Rows that were answered; 0 where answers are not scored."""


class TargetSettled(Spec):
    """A value of adapter.target_modules cannot be trained on this base model, or means the same as another value."""

    type: Literal["target_settled"] = "target_settled"
    time: float
    value: str
    same_as: str | None = None
    """The value that its points use instead, because it means the same modules."""
    problem: str | None = None
    """Why it cannot be trained."""

    @property
    def line(self) -> str:
        """Says in one line what became of the value."""
        if self.same_as is None:
            return f"{self.problem}; {self.value} is left out"
        return f"adapter.target_modules: {self.value} is the same as {self.same_as} on this model, and runs as that"


class EarlierPoint(Spec):
    """A trial of an earlier sweep."""

    point: dict[str, Value]
    loss: float
    """The least of the objective, or of its negative where higher is better."""
    last: float | None = None
    """The same at the last report; None: as `loss`."""
    step: int | None = None
    """Where it was stopped; None of a trial that was trained to its end."""
    is_own: bool = True
    """Whether its settings are those that this sweep gives the point."""


class EarlierTrials(Spec):
    """What `searcher.warm_start` found when the sweep began."""

    type: Literal["earlier_trials"] = "earlier_trials"
    time: float
    sweep_id: str
    trials: Annotated[tuple[EarlierPoint, ...], Field(strict=False)]
    is_same_task: bool
    """Whether base, rows and steps are those of this sweep."""

    @property
    def own(self) -> tuple[EarlierPoint, ...]:
        """The trials whose losses compare with those of this sweep; of the others only the points are of use."""
        return tuple(trial for trial in self.trials if self.is_same_task and trial.is_own)


class TrialStarted(Spec):
    """A trial holds a slot. Comes again when the trial goes on after it was parked or interrupted."""

    type: Literal["trial_started"] = "trial_started"
    time: float
    trial_key: str
    number: int
    """0 for the first trial of the sweep."""
    params: dict[str, Scalar]
    """The searched fields, and those that are always shown, under their short names."""
    spec: str
    """The resolved TrialSpec as JSON."""
    point: dict[str, Value] | None = None
    """Searched field -> value."""
    repeats: str | None = None
    """Key of the trial whose point this one repeats with another seed."""
    is_in_tail: bool | None = None
    """It goes on, or went on at a rung before, although it did not rank high enough. None: its rank says so."""


class PointInfeasible(Spec):
    """A point of the space cannot be trained: it never held a slot, and another replaces it. See `TrialStarted` too."""

    type: Literal["point_infeasible"] = "point_infeasible"
    time: float
    trial_key: str
    number: int
    params: dict[str, Scalar]
    reason: Told
    point: dict[str, Value] | None = None
    repeats: str | None = None


class TrialReported(Spec):
    """A trial reached a report point."""

    type: Literal["trial_reported"] = "trial_reported"
    time: float
    trial_key: str
    report: Report
    adapter: str | None = None
    """Folder of the adapter, relative to the sweep's folder, when this is the best step so far."""
    adapter_sha256: str | None = None
    """Digest of the adapter's files when they were written."""
    is_gain: bool | None = None
    """Of a trial's first report, whether it is better than all first reports before it, beyond chance; else None."""


class TrialScored(Spec):
    """The answers of a finalist were scored when its trial was over: see `evaluation.when: best`."""

    type: Literal["trial_scored"] = "trial_scored"
    time: float
    trial_key: str
    step: int
    """The best step of the trial, that of its adapter."""
    metrics: dict[str, float]
    """The scores alone: the loss is that of the report."""


class TrialParked(Spec):
    """A trial gave its slot back after a report. `TrialStarted` comes again if the scheduler resumes it."""

    type: Literal["trial_parked"] = "trial_parked"
    time: float
    trial_key: str
    step: int
    """The step of its last report."""


class TrialEnded(Spec):
    """A trial is over, or interrupted."""

    type: Literal["trial_ended"] = "trial_ended"
    time: float
    trial_key: str
    state: TrialState
    reason: Told
    by_person_or_budget: bool = False
    may_go_on: bool = False
    """Whether a budget of time ended the trial. Its snapshots stay: the next driver that has hosts goes on."""
    history: Annotated[tuple[StepRecord, ...], Field(strict=False)] = ()
    """The steps that the trial took after its last report."""


class RequestAnswered(Spec):
    """The driver answers what somebody asked of the running sweep: see `sweeps/steering/mailbox.py`."""

    type: Literal["request_answered"] = "request_answered"
    time: float
    request: str
    """Its id: what was answered once is not answered again."""
    sender: str
    asked: str
    """What was asked for, in words."""
    is_accepted: bool
    message: Told
    """What will come of it, or why nothing will."""
    trial_key: str | None = None
    """The trial that is to be stopped."""
    point: dict[str, Value] | None = None
    """The point that is to be tried next: searched field -> value."""
    changes: dict[str, Scalar | None] = Field(default_factory=dict)
    """What holds from now on: key of the sweep file -> its value, None for a limit that is lifted."""


@dataclass(frozen=True)
class Answer:
    """What is to be answered to a request, before it is written down.

    A request for what is so already is granted, and changes nothing.
    """

    is_accepted: bool
    """Whether the request is granted."""
    message: str
    """What will come of it, or why nothing will."""
    point: Point | None = None
    """As that of `RequestAnswered`."""
    changes: Mapping[str, Scalar | None] = field(default_factory=dict)
    """As those of `RequestAnswered`."""
    trial_key: str | None = None
    """As that of `RequestAnswered`."""


class SweepEnded(Spec):
    """The driver leaves in order."""

    type: Literal["sweep_ended"] = "sweep_ended"
    time: float
    reason: Literal["finished", "budget", "interrupted", "failed"]
    message: Told = ""


Event = (
    SweepStarted
    | SweepPlanned
    | HostsStarted
    | HostsChanged
    | DriverLives
    | DataPrepared
    | BaseEvaluated
    | TargetSettled
    | EarlierTrials
    | TrialStarted
    | PointInfeasible
    | TrialReported
    | TrialScored
    | TrialParked
    | TrialEnded
    | RequestAnswered
    | SweepEnded
)
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def to_line(event: Event) -> str:
    """The event as one line of JSON, without the line break."""
    return event.model_dump_json()


def from_line(line: str | bytes) -> Event:
    """The event of a line written by `to_line`; raises ValueError for anything else."""
    return _EVENT.validate_json(line)
