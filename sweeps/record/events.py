"""The events of a sweep. Each kind of event is a class; each event is a line of JSON. Pure.

Events are the sweep's only state. The driver appends them to `events.jsonl` in the sweep's folder. The live table, the
tracking writer and the closing table are all folds over them (see `sweeps.record.sweep_record`).
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
from sweeps.config.passwords import hidden
from sweeps.config.points import Scalar
from trainables.contract import Device, Failure, StepRecord
from trainables.engine_paths import EnginePath, Settled
from trainables.inputs import json_text
from trainables.objective import LOWEST_LOSS, Metrics, Objective
from trainables.specs import Spec, Words

Told = Annotated[Words, AfterValidator(hidden)]
"""Text from a library or a trainable. The text is shown and kept, so passwords in its URIs are removed."""


class TrialState(StrEnum):
    """State of a trial."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PARKED = "PARKED"
    """The trial waits at a report point without a slot; the scheduler may resume it."""
    PAUSED = "PAUSED"
    """The sweep was interrupted. The trial goes on when the sweep is resumed."""
    STOPPED = "STOPPED"
    """Ended early by the scheduler, a person or the budget."""
    COMPLETED = "COMPLETED"
    DIVERGED = "DIVERGED"
    INFEASIBLE = "INFEASIBLE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    FAILED = "FAILED"

    @classmethod
    def after(cls, failure: Failure) -> TrialState:
        """Returns the state of a trial after this failure."""
        return cls(failure.kind.upper())

    @property
    def is_final(self) -> bool:
        """Tells whether the trial is over for good."""
        return self not in (TrialState.PENDING, TrialState.RUNNING, TrialState.PARKED, TrialState.PAUSED)

    @property
    def is_ranked(self) -> bool:
        """Tells whether the trial may be the best one."""
        return self in (TrialState.COMPLETED, TrialState.STOPPED)

    @property
    def counts_as_trial(self) -> bool:
        """Tells whether the trial counts towards budget.trials. Another trial takes the place of an infeasible one."""
        return self is not TrialState.INFEASIBLE


class SweepStarted(Spec):
    """The sweep begins or is resumed."""

    type: Literal["sweep_started"] = "sweep_started"
    time: float
    config: str
    """The resolved configuration as JSON. config.json must still hold the same when the sweep is resumed."""
    fingerprints: dict[str, str] = Field(default_factory=dict)
    """Fingerprints of the base model and the data, which must not have changed when the sweep is resumed."""
    sweep_id: str

    def objectives(self) -> tuple[Objective, ...]:
        """Reads the objectives from the configuration; the loss if they cannot be read."""
        try:
            told = json_text.parse(self.config).get("objective") or {}
            return tuple(Objective.model_validate(each) for each in (told if isinstance(told, list) else [told]))
        except (ValueError, AttributeError):
            return (LOWEST_LOSS,)


class SweepPlanned(Spec):
    """Expected steps, time and memory of the sweep at its launch."""

    type: Literal["sweep_planned"] = "sweep_planned"
    time: float
    steps: int
    seconds: float | None
    """None if no rate was known."""
    memory_bytes: int | None = None
    """Memory of one host with its slots; None if only the loaded base tells."""


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
    """Hosts that hold their places on machines, also while they load or leave. Their time counts as spent."""
    held_seconds: float
    """Sum over all hosts of the seconds for which each held its place until `time`."""
    device: Device
    gpus_per_host: int = 1
    """GPUs of each host. The number has no meaning on a CPU."""
    engine: str = ""
    """Engine that computes the losses of trials on the first host; empty if the trainable does not name an engine."""
    settled: Settled | None = None
    """How passes are computed, as the first host's self-test found; None if there was nothing to settle."""
    silent: tuple[Silent, ...] = ()
    """Hosts that may hang."""


class HostsChanged(Spec):
    """Hosts came or went during the sweep, or a host may hang, or works again. For the fields see `HostsStarted`."""

    type: Literal["hosts_changed"] = "hosts_changed"
    time: float
    hosts: int
    slots: int
    held: int
    silent: tuple[Silent, ...] = ()


class PathSettled(Spec):
    """The first host of a base has settled how passes are computed, in a sweep that searches its base."""

    type: Literal["path_settled"] = "path_settled"
    time: float
    base: str
    """See `TrialSpec.base_name`."""
    path: EnginePath


class DriverLives(Spec):
    """The driver lives, and nothing else has happened for a minute. Its time counts as spent until `time`."""

    type: Literal["driver_lives"] = "driver_lives"
    time: float


class DataPrepared(Spec):
    """The data is tokenised, and its fingerprint is known."""

    type: Literal["data_prepared"] = "data_prepared"
    time: float
    summary: dict[str, Scalar]
    warnings: Annotated[tuple[Told, ...], Field(strict=False)] = ()
    """Oddities of the rows, a line each."""


class BaseEvaluated(Spec):
    """The base without an adapter was evaluated. Every trial starts from this base."""

    type: Literal["base_evaluated"] = "base_evaluated"
    time: float
    metrics: Metrics
    """See `Evaluation.metrics`."""
    rows: int
    hardware: str
    """See `Evaluation.hardware`."""
    answered: int = 0
    """Rows that the base answered; 0 if answers are not scored."""
    base: str = ""
    """Name of the base, where the sweep searches it: `TrialSpec.base_name`."""


class TargetSettled(Spec):
    """A value of adapter.target_modules cannot be trained on this base model, or means the same as another value."""

    type: Literal["target_settled"] = "target_settled"
    time: float
    value: str
    same_as: str | None = None
    """Another value with the same modules. Points with `value` use the other value instead."""
    problem: str | None = None
    """Why the value cannot be trained."""

    @property
    def line(self) -> str:
        """Says in one line why the value is left out, or what it runs as."""
        if self.same_as is None:
            return f"{self.problem}; {self.value} is left out"
        return f"adapter.target_modules: {self.value} is the same as {self.same_as} on this model, and runs as that"


class EarlierPoint(Spec):
    """A trial of an earlier sweep."""

    point: dict[str, Value]
    loss: float
    """Best value of the first objective, negated if higher is better."""
    last: float | None = None
    """The same for the last report; None stands for `loss`."""
    step: int | None = None
    """Step at which the trial was stopped; None if it was trained to its end."""
    is_own: bool = True
    """Whether this sweep would give the point the same settings."""


class EarlierTrials(Spec):
    """Trials of an earlier sweep that `searcher.warm_start` found when the sweep began."""

    type: Literal["earlier_trials"] = "earlier_trials"
    time: float
    sweep_id: str
    trials: Annotated[tuple[EarlierPoint, ...], Field(strict=False)]
    is_same_task: bool
    """Whether the earlier sweep had the base, rows and steps of this sweep."""

    @property
    def own(self) -> tuple[EarlierPoint, ...]:
        """Returns the trials whose losses compare with those of this sweep. Other trials give only their points."""
        return tuple(trial for trial in self.trials if self.is_same_task and trial.is_own)


class TrialStarted(Spec):
    """A trial holds a slot. The event comes again when a parked or interrupted trial resumes."""

    type: Literal["trial_started"] = "trial_started"
    time: float
    trial_key: str
    number: int
    """0 for the first trial of the sweep."""
    params: dict[str, Scalar]
    """Short name -> value of the searched fields and of the fields that are always shown."""
    spec: str
    """The resolved TrialSpec as JSON."""
    point: dict[str, Value]
    """Searched field -> value."""
    repeats: str | None = None
    """Key of the trial whose point this one repeats with another seed."""
    is_in_tail: bool = False
    """Whether the trial was ever resumed although its rank was too low."""


class PointInfeasible(Spec):
    """A point of the space cannot be trained. It never held a slot; another point replaces it. See `TrialStarted`."""

    type: Literal["point_infeasible"] = "point_infeasible"
    time: float
    trial_key: str
    number: int
    params: dict[str, Scalar]
    reason: Told
    point: dict[str, Value]
    repeats: str | None = None


class EvaluatedPart(Spec):
    """An evaluation on a part of the evaluation rows."""

    rows: int
    metrics: Metrics
    """See `Evaluation.raw`."""


class TrialReported(Spec):
    """A trial reached a report point."""

    type: Literal["trial_reported"] = "trial_reported"
    time: float
    trial_key: str
    step: int
    metrics: Metrics
    best_step: int
    """Step with the best objective so far."""
    best_metrics: Metrics
    history: Annotated[tuple[StepRecord, ...], Field(strict=False)]
    """Steps since the previous report."""
    tokens: int
    seconds: float
    peak_memory_bytes: int
    """Most memory used by the host so far: on the GPU (the fullest of several), or by the process on a CPU."""
    trainable_params: int
    evaluated_time: float
    """End of the evaluation, in seconds since the epoch. `time` is when the driver wrote the report."""
    resource: int | None = None
    """The report point in examples; None where rungs count steps."""
    unscored: dict[str, Told] = Field(default_factory=dict)
    """See `Evaluation.unscored`."""
    adapter: str | None = None
    """Folder of the adapter, relative to the sweep's folder, if this is the best step so far."""
    adapter_sha256: str | None = None
    """Digest of the adapter's files when they were written."""
    is_gain: bool | None = None
    """Whether a trial's first report beats the first report of the last trial with a gain, beyond chance.

    None for later reports and for repeats.
    """
    part: EvaluatedPart | None = Field(None, exclude_if=lambda value: value is None)
    """The rows of the evaluation, if these were a part: `metrics` are then brought to all rows, see `Evaluation`."""
    at_rung: Metrics | None = Field(None, exclude_if=lambda value: value is None)
    """The metrics on the rows of the other trials at this report point, if these are fewer."""

    @property
    def report_point(self) -> int:
        """Returns the report point in the unit of the rungs: examples or steps."""
        return self.step if self.resource is None else self.resource


class TrialScored(Spec):
    """A trial's best adapter was evaluated again after the trial was over: its answers were scored, or all rows."""

    type: Literal["trial_scored"] = "trial_scored"
    time: float
    trial_key: str
    step: int
    """The best step of the trial, at which its adapter was kept."""
    metrics: dict[str, float]
    """The scores only, since the report has the loss; all metrics if the report was of a part of the rows."""
    unscored: dict[str, Told] = Field(default_factory=dict)
    """See `Evaluation.unscored`."""
    has_all_rows: bool = Field(False, exclude_if=lambda value: not value)
    """Whether the report was of a part of the rows, and this evaluation of all."""


class TrialParked(Spec):
    """A trial gave its slot back after a report. `TrialStarted` comes again if the scheduler resumes the trial."""

    type: Literal["trial_parked"] = "trial_parked"
    time: float
    trial_key: str
    step: int
    """Step of the trial's last report."""


class TrialEnded(Spec):
    """A trial is over or interrupted."""

    type: Literal["trial_ended"] = "trial_ended"
    time: float
    trial_key: str
    state: TrialState
    reason: Told
    by_person_or_budget: bool = False
    may_go_on: bool = False
    """Whether the trial ended with a sweep whose budget can be raised. Its snapshots stay for the next driver."""
    history: Annotated[tuple[StepRecord, ...], Field(strict=False)] = ()
    """Steps of the trial after its last report."""


class RequestAnswered(Spec):
    """A request to the sweep was answered: see `sweeps/steering/mailbox.py`."""

    type: Literal["request_answered"] = "request_answered"
    time: float
    request: str
    """Id of the request. A request is answered only once."""
    sender: str
    asked: str
    """The request in words."""
    is_accepted: bool
    message: Told
    """What will happen, or why nothing will."""
    trial_key: str | None = None
    """Key of the trial to stop."""
    point: dict[str, Value] | None = None
    """Point to try next: searched field -> value."""
    changes: dict[str, Scalar | None] = Field(default_factory=dict)
    """Key of the sweep file -> its new value; None lifts a limit."""


@dataclass(frozen=True)
class Reply:
    """The answer to a request, before it is a `RequestAnswered`. A request for the present state is accepted."""

    is_accepted: bool
    message: str
    point: Point | None = None
    changes: Mapping[str, Scalar | None] = field(default_factory=dict)
    trial_key: str | None = None


class SweepEnded(Spec):
    """The driver ends in order."""

    type: Literal["sweep_ended"] = "sweep_ended"
    time: float
    reason: Literal["finished", "budget", "interrupted", "failed"]
    message: Told = ""


Event = (
    SweepStarted
    | SweepPlanned
    | HostsStarted
    | HostsChanged
    | PathSettled
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
    """Returns the event as one line of JSON, without the line break."""
    return event.model_dump_json()


def from_line(line: str | bytes) -> Event:
    """Reads the event of a line written by `to_line`; raises ValueError for anything else."""
    return _EVENT.validate_json(line)
