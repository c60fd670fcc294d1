"""The contract between whoever schedules trials and whatever trains them.

A trainable is a module that offers the functions of `Trainable`; its `Pack` trains several adapters (slots) at once.
A new trainable is one file in `trainables/`, and the contract tests run over every module that is found there. One
of the user's own is any module or file with these functions, or a class with these methods (`catalogue.find`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, model_validator

from trainables.engine_paths import SelfTest, Settled
from trainables.inputs.legible import Words
from trainables.objective import EVAL_BITS, EVAL_LOSS, Direction, EvaluationMetrics, Metrics, RowValues, named_metrics
from trainables.specs import Spec, TrialSpec

Device = Literal["cpu", "cuda"]
FailureKind = Literal["diverged", "infeasible", "out_of_memory", "failed"]


class Failure(Spec):
    """Why a slot can't go on. The other slots are not touched; the owner closes the slot."""

    kind: FailureKind
    message: Words


class StepRecord(Spec):
    """One optimizer step of one slot."""

    step: int
    """1 for the first step."""
    train_loss: float
    """Mean negative log-likelihood per completion token over the effective batch, before the update."""
    learning_rate: float
    grad_norm: float
    """Norm before clipping."""
    tokens: int
    """Tokens of all steps so far, padding not counted."""
    seconds: float
    """Time spent in this slot's steps so far, those of its neighbours in the same pass included."""
    time: float
    """When the step ended, in seconds since the epoch."""


class AnsweredRow(Spec):
    """One evaluation row that was answered, for people to read."""

    row: int
    """Its place among the evaluation rows, from 0."""
    place: str = ""
    """Where it stands in its file, "line 17"; empty where that is not known."""
    prompt: str
    expected: str
    answer: str
    """What was generated; the likeliest label where nothing was."""
    ranked: str | None = None
    """The likeliest label, where labels are ranked."""
    is_ended: bool
    """Whether the answer ended by itself, and was not cut off at evaluation.max_new_tokens."""
    scores: dict[str, float]
    """Metric -> its value for this row."""


class Evaluation(Spec):
    """One evaluation of one slot on the sweep's fixed rows."""

    metrics: EvaluationMetrics
    """Those of the trainable's METRICS; the loss is one of them."""
    row_losses: Annotated[tuple[float, ...], Field(strict=False)] = ()
    """Total negative log-likelihood of each row, in the order of the evaluation rows."""
    row_tokens: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Completion tokens of each row."""
    row_bytes: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Bytes of each row's completion as the data have it, in UTF-8; empty where they are not known."""
    row_groups: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Number of the group that each row belongs to, in the order of the rows; empty where each row stands alone."""
    row_values: Mapping[str, Annotated[tuple[float, ...], Field(strict=False)]] = Field(default_factory=dict)
    """Another metric -> its value for each row, where the metric is the mean of these."""
    row_places: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Places, among the evaluation rows, of the rows that have a value in `row_values`; empty where all of them have.
    """
    answers: Annotated[tuple[AnsweredRow, ...], Field(strict=False)] = ()
    """What was answered, in the order of `row_places`; empty where answers are not scored. No part of `document`."""
    hardware: str = ""
    """What it was computed on, device and type of the activations: "cpu float32". Empty where neither matters."""

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, raw: Any) -> Any:
        return named_metrics(raw)

    @property
    def loss(self) -> float:
        """The mean negative log-likelihood of the completion tokens: the one metric that every trainable gives."""
        return self.metrics[EVAL_LOSS]

    def document(self) -> dict[str, Any]:
        """The evaluation as files hold it: each metric is a key of its own, and what not all have may be missing."""
        empty = {name for name in ("row_bytes", "row_groups", "row_values", "row_places") if not getattr(self, name)}
        return {**self.metrics, **self.model_dump(mode="json", exclude={"metrics", "answers", *empty})}

    def rows_of(self, metric: str) -> RowValues | None:
        """A metric's value per row; None where the evaluation has none."""
        if metric == EVAL_LOSS:
            return RowValues(self.row_losses, self.row_tokens) if self.row_losses else None
        if metric == EVAL_BITS:
            bits = tuple(loss / math.log(2) for loss in self.row_losses)
            return RowValues(bits, self.row_bytes) if self.row_bytes else None
        values = self.row_values.get(metric, ())
        return RowValues(values, (1,) * len(values)) if values else None

    def places_of(self, metric: str) -> tuple[int, ...]:
        """The places, among the evaluation rows, of those that `rows_of` has a value for."""
        is_loss = metric in (EVAL_LOSS, EVAL_BITS)
        count = len(self.row_losses if is_loss else self.row_values.get(metric, ()))
        is_part = count == len(self.row_places) and count != len(self.row_tokens)
        return self.row_places if is_part else tuple(range(count))

    @classmethod
    def of_document(cls, raw: Mapping[str, Any]) -> Evaluation:
        """The loss and the rows in what `document` gave. Raises ValueError or TypeError when they cannot be read."""
        return cls.model_validate({key: raw[key] for key in (EVAL_LOSS, *cls.model_fields) if key in raw})


class Opened(Spec):
    """A slot that is ready to train."""

    step: int
    """Steps that its snapshot had done; 0 without one."""
    trainable_params: int


class Report(Spec):
    """What a trial reports at a report point."""

    step: int
    metrics: Metrics
    best_step: int
    best_metrics: Metrics
    """Where the objective was best so far, and the metrics there."""
    history: Annotated[tuple[StepRecord, ...], Field(strict=False)]
    """The steps since the previous report."""
    tokens: int
    seconds: float
    peak_memory_bytes: int
    """Most memory that the host has used so far: of the GPU (of several the fullest), or of the process on a CPU."""
    trainable_params: int
    time: float
    """When the evaluation ended, in seconds since the epoch."""
    resource: int | None = None
    """The rung that this is, in examples; None where rungs count steps."""

    @property
    def point(self) -> int:
        """The report point that this is, in what rungs count: examples or steps."""
        return self.step if self.resource is None else self.resource

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, raw: Any) -> Any:
        return named_metrics(raw)


class Summary(Spec):
    """What preparing the data found, for people and for the tracking server."""

    fingerprint: str
    """16 hex digits over every token and label; equal data, template and tokenizer give an equal fingerprint."""
    eval_fingerprint: str = ""
    """16 hex digits over what the evaluation rows say, whatever the tokenizer; empty where that is not known."""
    eval_bytes: int = 0
    """Sum of `Evaluation.row_bytes`; 0 where they are not known."""
    train_rows: int
    eval_rows: int
    train_tokens: int = 0
    labelled_tokens: int = 0
    """The part of `train_tokens` that counts in the loss; 0 where it was not counted."""
    longest_row: int = 0
    longest_train_row: int = 0
    train_row_deviation: float = 0.0
    """Tokens of the longest row, of the longest to train on, and their standard deviation; 0 where not counted."""
    truncated_rows: int = 0
    dropped_rows: int = 0
    """Rows left without a completion token."""
    empty_rows: int = 0
    missing_value_rows: int = 0
    """Rows with an empty answer, left out or not, and with a word for a missing value: nan, null, None."""
    repeated_rows: int = 0
    """Rows to train on that repeat an earlier row."""
    eval_rows_in_train: int = 0
    test_rows_in_train: int = 0
    warnings: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Oddities of the rows, a line each, with the place of the first such row."""

    @property
    def shape(self) -> RowShape | None:
        """What memory and time depend on; None where there are no rows."""
        if not self.train_rows or not self.train_tokens:
            return None
        return RowShape(
            longest=max(1, self.longest_train_row or self.longest_row),
            mean=self.train_tokens / self.train_rows,
            labelled=self.labelled_tokens / self.train_tokens if self.labelled_tokens else 1.0,
            train_rows=self.train_rows,
            eval_rows=self.eval_rows,
            deviation=self.train_row_deviation or None,
            longest_of_all=self.longest_row,
        )


class Preview(Spec):
    """What a look at local data finds before anything starts."""

    problems: tuple[str, ...] = ()
    """"field: what is wrong" each."""
    warnings: tuple[str, ...] = ()
    """Oddities of the data, a line each."""
    train_rows: int | None = None
    eval_rows: int | None = None
    """Rows to train on, and rows of one evaluation; None where that is not known yet."""
    row_tokens: float | None = None
    """Mean tokens of a row to train on, by the characters of the rows that were looked at; None where none was."""
    test_rows_in_train: int = 0
    """Test rows that are trained on, among those that were looked at."""
    is_doubtful: bool = False
    """Whether only the tokens of the rows tell if they can be learnt, and whole files were looked at."""


class Prepared(Spec):
    """Data made ready once per sweep, as bytes that every host reads alike."""

    summary: Summary
    payload: bytes = Field(repr=False)
    settled: Settled | None = None
    """How the host that prepared computes passes, as `Trainable.settle_path` says."""


class LookedUp(Spec):
    """What only the network can say of a sweep, a line each."""

    problems: tuple[str, ...] = ()
    """What is wrong, "field: what: the way out"."""
    unreachable: tuple[str, ...] = ()
    """What this machine cannot reach: wrong too, unless the sweep runs elsewhere."""
    notices: tuple[str, ...] = ()
    """What is not known before the sweep runs."""


TargetModules = str | tuple[str, ...]
"""A value of adapter.target_modules: a preset, or names of modules."""


class Target(Spec):
    """What a value of adapter.target_modules means on the base model."""

    value: str | Annotated[tuple[str, ...], Field(strict=False)]
    modules: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names of the layers that are adapted: values with equal names are one and the same."""
    problem: str | None = None
    """Why no adapter can be trained there, "field: what is wrong: the way out"."""


class RowShape(Spec):
    """What memory and time depend on in the rows of a sweep."""

    longest: Annotated[int, Field(ge=1)]
    mean: Annotated[float, Field(gt=0)]
    """Tokens of a row to train on: of the longest one, and on average."""
    labelled: Annotated[float, Field(gt=0, le=1)]
    """Part of the tokens that count in the loss."""
    train_rows: int
    eval_rows: int
    deviation: Annotated[float, Field(ge=0)] | None = None
    """Standard deviation of the tokens of a row to train on; None where it is not known."""
    longest_of_all: int = 0
    """Tokens of the longest row, of those to evaluate on too; 0 where it is not known."""


class Memory(Spec):
    """What a host holds on the device that trains, by part, in bytes."""

    process: int = 0
    """Python and the libraries, or the CUDA context."""
    base: int = 0
    """The frozen weights, and one layer that is dequantised."""
    adapters: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    """Logits of the labelled tokens that the head computes at one time, and tensors of their size beside them."""
    kept: int = 0
    """Snapshot and adapter of each slot's last report, until its next one, and what one takes to make; 0 on a GPU."""

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(self.model_dump().values())

    def plus(self, other: Memory, times: int = 1) -> Memory:
        """Both together, the other one `times` times."""
        mine, others = self.model_dump(), other.model_dump()
        return Memory(**{part: mine[part] + times * others[part] for part in mine})


class Work(Spec):
    """What a GPU computes: for an estimate of time where no rate was measured."""

    trained: float
    """Floating point operations for a token that is trained on: forward, backward, and what is computed again."""
    evaluated: float
    generated: float
    """The same for a token that is evaluated, and for one that is generated."""
    micro_batch: int
    """Rows of one trial in a pass."""
    pass_tokens: int
    """The most tokens of all trials in a training pass."""
    pass_operators: int
    slot_operators: int
    """Operators of a training pass, each a kernel or more, and what each of its trials adds to them."""
    forward_operators: int
    """Operators of an evaluation pass of one trial."""


class Need(Spec):
    """Estimates the memory of the device that trains, and the bytes that are kept on disk."""

    base_bytes: int
    """The frozen base and what exists once."""
    slot_bytes: int
    """The largest adapter of the space with its optimizer state."""
    step_bytes: int
    """What a host with one slot takes beside those: activations and logits."""
    saturating_slots: int
    """Slots that keep the device busy: more of them train no faster and only weaken early stopping."""
    adapter_bytes: int = 0
    snapshot_bytes: int = 0
    """The largest adapter and the largest snapshot of the space on disk."""
    by_slots: Annotated[tuple[Memory, ...], Field(strict=False)] = ()
    """What hosts with 1, 2, ... slots hold by part, in rising order; a slot beyond takes what the first one does."""
    work: Work | None = None
    """None where it is not known what is computed."""

    def memory(self, slots: int) -> Memory:
        """What a host with `slots` slots holds, by part as far as they are told."""
        told = (Memory(base=self.base_bytes), *self.by_slots)[: slots + 1]
        slot = Memory(adapters=self.slot_bytes, activations=self.step_bytes)
        return told[-1].plus(slot, slots + 1 - len(told))

    def total(self, slots: int) -> int:
        """Bytes with `slots` slots training at once."""
        return self.memory(slots).total

    def slots(self, free_bytes: int, at_most: int) -> int:
        """Slots that fit into `free_bytes`, saturate the device and are no more than `at_most`; at least 1."""
        most = max(1, min(self.saturating_slots, at_most))
        return max(1, bisect_right(range(1, most + 1), free_bytes, key=self.total))


class Pack(Protocol):
    """Slots that train side by side. A slot's numbers do not depend on its neighbours.

    Not thread-safe: one thread calls it. A `Failure` concerns its slot alone and is returned, never raised.

    Beside it, where the numbers depend on it: `hardware`, the `Evaluation.hardware` of all its evaluations, known
    before the first. A sweep warns when its hosts compute in different types. And `engine_name`: what computes the
    losses, in words, which the sweep says when it starts.

    For `evaluation.when: best` it also has `restored(adapter: Mapping[str, bytes]) -> bytes`: a snapshot that holds no
    more than the adapter of these files. Slots that `open` such a snapshot are evaluated, and not trained.
    """

    def open(self, slot: int, spec: TrialSpec, snapshot: bytes | None = None) -> Opened | Failure:
        """Puts a trial into a free slot, from the start or from a snapshot of the same trial."""

    def step(self, slots: Sequence[int]) -> Mapping[int, StepRecord | Failure]:
        """Does one optimizer step for each of `slots`."""

    def evaluate(self, slots: Sequence[int], scored: Collection[int] = ()) -> Mapping[int, Evaluation | Failure]:
        """Evaluates each of `slots` on the sweep's evaluation rows; changes nothing that training sees.

        Args:
            scored: those of them whose answers are scored too, as the spec's `evaluation` says.
        """

    def evaluate_base(self) -> Evaluation | Failure:
        """Evaluates the base without an adapter on the same rows: where every slot starts from. Changes nothing."""

    def snapshot(self, slot: int) -> bytes:
        """Saves the slot: `open` goes on from these bytes as if the slot had never been closed."""

    def adapter(self, slot: int) -> Mapping[str, bytes]:
        """Returns the slot's adapter as it stands now: file name -> content of a folder that PEFT can load."""

    def close(self, slot: int) -> None:
        """Frees the slot. Closing a free slot does nothing."""

    def peak_memory_bytes(self) -> int:
        """Returns the most memory used so far: of the GPU, of several of the fullest one, or of this process."""


class Trainable:
    """What a trainable is asked. A module's functions stand in place of the methods here (`catalogue.of_module`).

    Those without a default must be there: REQUIRES, `check`, `fingerprint`, `prepare`, `open_pack` and `need`.
    """

    REQUIRES: frozenset[str]
    """Sections of the sweep file that it cannot do without, of `model` and `data`."""
    METRICS: Mapping[str, Direction] = {EVAL_LOSS: "min"}
    """Name of each metric of its evaluations, the loss among them -> which value is better ("min" or "max")."""
    found_as = ""
    """The name that `catalogue.find` found it by."""
    spreads = False
    """Whether its base is spread over the GPUs that its process sees: whether it offers `need_of_gpus`."""

    def check(self, base: TrialSpec) -> list[str]:
        """Problems with local files, each "field: what is wrong". Answers fast, without torch or the network."""
        raise NotImplementedError

    def fingerprint(self, base: TrialSpec) -> Mapping[str, str]:
        """What identifies the base model and the data, for the trial keys. Without torch or the network."""
        raise NotImplementedError

    def prepare(self, base: TrialSpec, cache: Path) -> Prepared:
        """Reads, tokenises and fingerprints the data. Raises `DataError` when there is nothing to train on."""
        raise NotImplementedError

    def open_pack(self, base: TrialSpec, data: bytes, cache: Path) -> Pack:
        """Loads the base model onto this process's device; of several GPUs that it sees, all are its host's."""
        raise NotImplementedError

    def need(self, base: TrialSpec, largest: Sequence[TrialSpec], device: Device) -> Need | None:
        """Estimates memory for the largest specs of a space; None when the model's sizes are unknown."""
        raise NotImplementedError

    # With defaults

    def metrics(self, base: TrialSpec) -> Mapping[str, Direction]:
        """The metrics of its evaluations as METRICS has them, with those that the spec's `evaluation` adds."""
        return self.METRICS

    def need_of_rows(
        self, base: TrialSpec, largest: Sequence[TrialSpec], device: Device, rows: RowShape
    ) -> Need | None:
        """As `need`, for rows whose shape is known. Without it `need` is told the longest row as data.max_length."""
        return self.need(_cut(base, rows), [_cut(spec, rows) for spec in largest], device)

    def need_of_gpus(
        self, base: TrialSpec, largest: Sequence[TrialSpec], device: Device, rows: RowShape | None, gpus: int
    ) -> Need | None:
        """As `need`, on the fullest of the GPUs over which it spreads its base. `rows` is None if unknown.

        Without it the base is not spread: the first GPU needs as much as an only one.
        """
        if rows is None:
            return self.need(base, largest, device)
        return self.need_of_rows(base, largest, device, rows)

    def settle_auto(
        self, pack: Pack, base: TrialSpec, largest: Sequence[TrialSpec], rows: RowShape | None, usable: int
    ) -> Need | None:
        """Settles what `auto` leaves open in a pack, before its first trial, for so many bytes.

        Returns its need then; None leaves the answer to `need`.
        """
        return None

    def settle_path(self, base: TrialSpec, data: bytes, cache: Path) -> Settled | None:
        """Finds out which ways to compute passes are right on this machine, and takes the fastest, or the one named.

        Called on each host before `open_pack`, which is given the base with what was settled. None: nothing to settle.
        """
        return None

    def self_test(self, base: TrialSpec, data: bytes, cache: Path, anew: bool = False) -> SelfTest | None:
        """What came of each way to compute passes on this machine, also where there is nothing to settle.

        Tested now with `anew`, or if it was not before. None: there is one way only.
        """
        return None

    def preview(self, base: TrialSpec) -> Preview:
        """Looks into local data, for `validate` and `plan`. Without torch or the network."""
        return Preview()

    def look_up(self, base: TrialSpec, cache: Path) -> LookedUp:
        """Asks the network, before a sweep starts, what only it can say. Answers within seconds."""
        return LookedUp()

    def fetch_config(self, base: TrialSpec) -> bool:
        """Fetches what a plan needs of the base and no file here says, within seconds; whether it is there now."""
        return False

    def engine(self, base: TrialSpec) -> str | None:
        """Names what will compute the losses; None where it cannot say before the base is loaded."""
        return None

    def resolve_targets(self, base: TrialSpec, values: Sequence[TargetModules], cache: Path) -> Sequence[Target] | None:
        """Returns what each of `values` means on the base, in order, without weights. Raises `ModelError`.

        None where that is known only once a trial is opened.
        """
        return None

    def blindness(self) -> str | None:
        """Why its libraries see no GPU in this process, and the way out; None where they do, or it cannot tell."""
        return None


def _cut(spec: TrialSpec, rows: RowShape) -> TrialSpec:
    """The spec with data.max_length as low as the rows really are: that is what memory is needed for."""
    if spec.data is None or rows.longest >= spec.data.max_length:
        return spec
    return spec.model_copy(update={"data": spec.data.model_copy(update={"max_length": max(8, rows.longest)})})
