"""The contract between whoever schedules trials and whatever trains them.

A trainable is a module that offers the functions of `Trainable`; its `Pack` trains several adapters (slots) at once.
A new trainable is one file in `trainables/`, and the contract tests run over every module that is found there. A user's
own trainable is any module or file with these functions, or a class with these methods (`catalogue.find`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import Field

from trainables.engine_paths import SelfTest, Settled
from trainables.objective import EVAL_BITS, EVAL_LOSS, Direction, EvaluationMetrics, RowValues
from trainables.specs import Spec, TrialSpec, Words

Device = Literal["cpu", "cuda"]
FailureKind = Literal["diverged", "infeasible", "out_of_memory", "failed"]
BFLOAT16_CAPABILITY = (8, 0)
"""Lowest compute capability with bfloat16 (torch/cuda/__init__.py, 2.13: `is_bf16_supported` without emulation)."""


def has_bfloat16(capability: tuple[int, int]) -> bool:
    """Tells whether a GPU of this compute capability computes in bfloat16."""
    return capability >= BFLOAT16_CAPABILITY


class Failure(Spec):
    """The reason why a slot cannot go on. Other slots are not touched; the caller closes the failed slot."""

    kind: FailureKind
    message: Words


class StepRecord(Spec):
    """One optimizer step of one slot."""

    step: int
    """Number of the step, from 1."""
    train_loss: float
    """Mean negative log-likelihood per completion token over the effective batch, before the update."""
    learning_rate: float
    grad_norm: float
    """Norm before clipping."""
    tokens: int
    """Tokens of all steps so far, padding not counted."""
    seconds: float
    """Time of all steps of this slot so far. A shared step counts in full for each of its slots."""
    time: float
    """End of the step, in seconds since the epoch."""


class AnsweredRow(Spec):
    """One answered evaluation row, for people to read."""

    row: int
    """Place of the row among the evaluation rows, from 0."""
    place: str = ""
    """Place of the row in its file, such as "line 17"; empty if unknown."""
    prompt: str
    expected: str
    answer: str
    """The generated text; the likeliest label if nothing was generated."""
    ranked: str | None = None
    """The likeliest label, where labels are ranked."""
    is_ended: bool
    """Whether the answer ended by itself, and was not cut off at evaluation.max_new_tokens."""
    scores: dict[str, float]
    """Metric -> value for this row."""


class RowsDue(NamedTuple):
    """Numbers of rows in an evaluation of `evaluation.rows: nested`. None stands for all rows."""

    evaluated: int | None = None
    """Rows to evaluate on."""
    of_best: int | None = None
    """Rows of the trial's best evaluation so far, with which this one is compared."""
    of_rung: int | None = None
    """Rows on which the trials are ranked at the report point."""


ALL_ROWS = RowsDue()


class Evaluation(Spec):
    """One evaluation of one slot on the sweep's fixed rows, or on a part of them.

    The metrics of a part are brought to all rows by the base as control variate: the value on the part, plus the
    base's value on all rows, minus the base's value on the part.
    """

    metrics: EvaluationMetrics
    """Metric -> value, the loss among them; see `Trainable.metrics`."""
    raw: Mapping[str, float] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """The metrics on the evaluated part of the rows alone; empty if all rows were evaluated."""
    by_rows: Mapping[int, Mapping[str, float]] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """Number of rows -> the metrics on so many rows, brought to all rows, for comparisons. Not part of `document`."""
    places: Annotated[tuple[int, ...], Field(strict=False)] = Field((), exclude_if=lambda value: not value)
    """Places, among the evaluation rows, of the rows of this evaluation; empty if it has all."""
    row_losses: Annotated[tuple[float, ...], Field(strict=False)] = ()
    """Total negative log-likelihood of each row, in the order of the evaluation rows."""
    row_tokens: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Completion tokens of each row."""
    row_bytes: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """UTF-8 bytes of each row's completion as it stands in the data; empty if unknown."""
    row_groups: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Number of each row's group, in the order of the rows; empty where each row stands alone."""
    row_values: Mapping[str, Annotated[tuple[float, ...], Field(strict=False)]] = Field(default_factory=dict)
    """Metric other than the loss -> its value for each row, for metrics that are the mean of these values."""
    row_places: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Places, among the evaluation rows, of the rows with a value in `row_values`; empty if all rows have one."""
    answers: Annotated[tuple[AnsweredRow, ...], Field(strict=False)] = ()
    """The answered rows, in the order of `row_places`; empty if answers are not scored. Not part of `document`."""
    unscored: Mapping[str, Words] = Field(default_factory=dict)
    """Metric -> why it has no value, for answers that cannot be scored. The slot goes on. Not part of `document`."""
    hardware: str = ""
    """Device and type of the activations, such as "cpu float32"; empty if the numbers depend on neither."""

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of the completion tokens. Every trainable gives this metric."""
        return self.metrics[EVAL_LOSS]

    def document(self) -> dict[str, Any]:
        """Returns the evaluation as files hold it: each metric is a key, and empty optional row fields are left out."""
        empty = {name for name in ("row_bytes", "row_groups", "row_values", "row_places") if not getattr(self, name)}
        left_out = {"metrics", "by_rows", "answers", "unscored", *empty}
        return {**self.metrics, **self.model_dump(mode="json", exclude=left_out)}

    def beside(self, rows: int | None) -> Mapping[str, float]:
        """Returns the metrics that compare with an earlier evaluation on this number of rows."""
        return self.by_rows.get(-1 if rows is None else rows, self.metrics)

    def on(self, chosen: Collection[int]) -> Evaluation:
        """Returns the evaluation as if only the rows at the places `chosen` were evaluation rows. Keeps the metrics."""
        own = self.places or range(len(self.row_losses))
        numbers = {place: number for number, place in enumerate(sorted(chosen))}
        kept = [at for at, place in enumerate(own) if place in numbers]
        scored = [at for at, place in enumerate(self.row_places) if place in numbers]

        def of(values: Sequence[Any]) -> tuple[Any, ...]:
            is_part = len(values) == len(self.row_places) != len(own)
            return tuple(values[at] for at in (scored if is_part else kept)) if values else ()

        names = ("row_losses", "row_tokens", "row_bytes", "row_groups")
        update = {name: of(getattr(self, name)) for name in names} | {"places": ()}
        places = tuple(numbers[self.row_places[at]] for at in scored)
        values = {name: of(each) for name, each in self.row_values.items()}
        return self.model_copy(update={**update, "row_places": places, "row_values": values})

    def rows_of(self, metric: str) -> RowValues | None:
        """Returns the values of a metric per row; None if the evaluation has none."""
        if metric == EVAL_LOSS:
            return RowValues(self.row_losses, self.row_tokens) if self.row_losses else None
        if metric == EVAL_BITS:
            bits = tuple(loss / math.log(2) for loss in self.row_losses)
            return RowValues(bits, self.row_bytes) if self.row_bytes else None
        values = self.row_values.get(metric, ())
        return RowValues(values, (1,) * len(values)) if values else None

    def places_of(self, metric: str) -> tuple[int, ...]:
        """Returns the places, among the evaluation rows, of the rows that `rows_of` has a value for."""
        is_loss = metric in (EVAL_LOSS, EVAL_BITS)
        count = len(self.row_losses if is_loss else self.row_values.get(metric, ()))
        is_part = count == len(self.row_places) and count != len(self.row_tokens)
        return self.row_places if is_part else self.places or tuple(range(count))

    @classmethod
    def of_document(cls, raw: Mapping[str, Any]) -> Evaluation:
        """Reads the loss and the rows from a result of `document`. Raises ValueError or TypeError on failure."""
        told = {key: raw[key] for key in cls.model_fields if key in raw}
        return cls.model_validate({**told, "metrics": {EVAL_LOSS: raw.get(EVAL_LOSS)}})


class Opened(Spec):
    """A slot that is ready to train."""

    step: int
    """Steps done in its snapshot; 0 without a snapshot."""
    trainable_params: int


class Summary(Spec):
    """Findings of data preparation, for people and for the tracking server."""

    fingerprint: str
    """16 hex digits over every token and label; equal data, template and tokenizer give an equal fingerprint."""
    eval_fingerprint: str = ""
    """16 hex digits over the content of the evaluation rows, independent of the tokenizer; empty if unknown."""
    eval_bytes: int = 0
    """Sum of `Evaluation.row_bytes`; 0 if unknown."""
    train_rows: int
    eval_rows: int
    test_rows: int = 0
    """Rows for promotion alone, of data.test or drawn from data.train; 0 also if they could not be read."""
    train_tokens: int = 0
    labelled_tokens: int = 0
    """Training tokens that count in the loss; 0 if not counted."""
    longest_row: int = 0
    """Tokens of the longest row; 0 if not counted."""
    longest_train_row: int = 0
    """Tokens of the longest row to train on; 0 if not counted."""
    train_row_deviation: float = 0.0
    """Standard deviation of the tokens of the rows to train on; 0 if not counted."""
    truncated_rows: int = 0
    dropped_rows: int = 0
    """Rows left without a completion token."""
    empty_rows: int = 0
    """Rows with an empty answer, whether left out or not."""
    missing_value_rows: int = 0
    """Rows whose answer is a word for a missing value, such as nan, null or None."""
    repeated_rows: int = 0
    """Rows to train on that repeat an earlier row."""
    eval_rows_in_train: int = 0
    test_rows_in_train: int = 0
    test_rows_in_eval: int = 0
    """Test rows that are evaluated on and not trained on."""
    warnings: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Oddities of the rows, a line each, with the place of the first odd row."""

    @property
    def shape(self) -> RowShape | None:
        """Shape of the rows; None without rows or training tokens."""
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
    """Findings of a look at local data before anything starts."""

    problems: tuple[str, ...] = ()
    """Lines of the form "field: what is wrong"."""
    warnings: tuple[str, ...] = ()
    """Oddities of the data, a line each."""
    train_rows: int | None = None
    """Rows to train on; None if not known yet."""
    eval_rows: int | None = None
    """Rows of one evaluation; None if not known yet."""
    test_rows: int | None = None
    """Rows for promotion alone; None if not known yet."""
    row_tokens: float | None = None
    """Mean tokens of a row to train on, estimated from the characters of the rows seen; None if no row was seen."""
    is_doubtful: bool = False
    """Whether only tokens tell if the rows can be learnt. False with problems, or if a file was only partly read."""


class Prepared(Spec):
    """The data of a sweep, prepared once, as bytes that every host reads alike."""

    summary: Summary
    payload: bytes = Field(repr=False)
    settled: Settled | None = None
    """Result of `Trainable.settle_path` on the host that prepared the data."""


class LookedUp(Spec):
    """Facts about a sweep that only the network knows, a line each."""

    problems: tuple[str, ...] = ()
    """Lines of the form "field: what is wrong: the way out"."""
    unreachable: tuple[str, ...] = ()
    """Sources that this machine cannot reach: problems too, unless the sweep runs elsewhere."""
    notices: tuple[str, ...] = ()
    """Doubts that only the run of the sweep settles."""


TargetModules = str | tuple[str, ...]
"""A value of adapter.target_modules: a preset, or names of modules."""


class Target(Spec):
    """The layers that a value of adapter.target_modules selects on the base model."""

    value: str | Annotated[tuple[str, ...], Field(strict=False)]
    modules: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names of the adapted layers. Two values with equal names are the same choice."""
    problem: str | None = None
    """Reason why no adapter can be trained there: "field: what is wrong: the way out"."""


class RowShape(Spec):
    """Sizes of a sweep's rows, on which memory and time depend."""

    longest: Annotated[int, Field(ge=1)]
    """Tokens of the longest row to train on."""
    mean: Annotated[float, Field(gt=0)]
    """Mean tokens of a row to train on."""
    labelled: Annotated[float, Field(gt=0, le=1)]
    """Share of the tokens that count in the loss."""
    train_rows: int
    eval_rows: int
    deviation: Annotated[float, Field(ge=0)] | None = None
    """Standard deviation of the tokens of a row to train on; None if unknown."""
    longest_of_all: int = 0
    """Tokens of the longest row, evaluation rows included; 0 if unknown."""


class Memory(Spec):
    """Memory of a host on the training device, by part, in bytes."""

    process: int = 0
    """Python and the libraries, or the CUDA context."""
    base: int = 0
    """The frozen weights, and the layer that is dequantised at a time."""
    adapters: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    """Logits of the labelled tokens that the head computes at one time, and other tensors of their size."""
    kept: int = 0
    """Snapshot and adapter of each slot's last report, and the memory for writing one snapshot; 0 on a GPU."""

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(self.model_dump().values())

    def plus(self, other: Memory, times: int = 1) -> Memory:
        """Returns the sum of this memory and `times` times the other."""
        mine, others = self.model_dump(), other.model_dump()
        return Memory(**{part: mine[part] + times * others[part] for part in mine})


class Work(Spec):
    """Computing work of a GPU, for estimates of time without a measured rate."""

    trained: float
    """Floating point operations per trained token: forward, backward, and recomputation."""
    evaluated: float
    """Floating point operations per evaluated token."""
    generated: float
    """Floating point operations per generated token."""
    micro_batch: int
    """Rows of one trial in a pass."""
    pass_tokens: int
    """The most tokens of all trials in a training pass."""
    pass_operators: int
    """Operators of a training pass, whatever its trials. An operator is one kernel or more."""
    slot_operators: int
    """Operators that each trial adds to a training pass."""
    forward_operators: int
    """Operators of an evaluation pass of one trial."""
    loaded_bytes: int = 0
    """Bytes that a host reads and writes before its base is ready; 0 if unknown."""


class Need(Spec):
    """Estimated memory of the training device, and bytes on disk."""

    base_bytes: int
    """The frozen base, and everything else that a host holds once."""
    slot_bytes: int
    """The largest adapter of the space with its optimizer state."""
    step_bytes: int
    """Activations and logits of a host with one slot."""
    saturating_slots: int
    """Slots that keep the device busy. More slots train no faster and only weaken early stopping."""
    adapter_bytes: int = 0
    """The largest adapter of the space on disk."""
    snapshot_bytes: int = 0
    """The largest snapshot of the space on disk."""
    by_slots: Annotated[tuple[Memory, ...], Field(strict=False)] = ()
    """Memory of hosts with 1, 2, ... slots. Each further slot takes `slot_bytes` and `step_bytes`."""
    work: Work | None = None
    """None if the computing work is unknown."""

    def memory(self, slots: int) -> Memory:
        """Returns the memory of a host with `slots` slots, by part as far as the parts are known."""
        told = (Memory(base=self.base_bytes), *self.by_slots)[: slots + 1]
        slot = Memory(adapters=self.slot_bytes, activations=self.step_bytes)
        return told[-1].plus(slot, slots + 1 - len(told))

    def total(self, slots: int) -> int:
        """Returns the bytes of a host with `slots` slots."""
        return self.memory(slots).total

    def slots(self, free_bytes: int, at_most: int) -> int:
        """Returns how many slots fit into `free_bytes`: at most `at_most` and `saturating_slots`, at least 1."""
        most = max(1, min(self.saturating_slots, at_most))
        return max(1, bisect_right(range(1, most + 1), free_bytes, key=self.total))


class Pack(Protocol):
    """Slots that train side by side. A slot's numbers do not depend on its neighbours.

    Not thread-safe: one thread calls it. A `Failure` concerns its slot alone and is returned, never raised.

    Two attributes are optional. `hardware` is the `Evaluation.hardware` of all evaluations, known before the first one;
    a sweep warns when its hosts compute in different types. `engine_name` names what computes the losses, for people.

    For `evaluation.when: best` a pack also has `restored(adapter: Mapping[str, bytes]) -> bytes`, which returns a
    snapshot of the adapter in these files alone. Slots that `open` such a snapshot are evaluated, and never trained.

    For `evaluation.rows: nested` a pack also has `evaluate_parts(slots, scored, rows: Mapping[int, RowsDue])`, which
    evaluates each slot on its part of the rows; see `Trainable.NESTS_ROWS`.
    """

    def open(self, slot: int, spec: TrialSpec, snapshot: bytes | None = None) -> Opened | Failure:
        """Puts a trial into a free slot, from the start or from a snapshot of the same trial."""

    def step(self, slots: Sequence[int]) -> Mapping[int, StepRecord | Failure]:
        """Does one optimizer step for each of `slots`."""

    def evaluate(self, slots: Sequence[int], scored: Collection[int] = ()) -> Mapping[int, Evaluation | Failure]:
        """Evaluates each of `slots` on the sweep's evaluation rows; changes nothing that training sees.

        Args:
            scored: the slots whose answers are scored too, as the spec's `evaluation` says.
        """

    def evaluate_base(self) -> Evaluation | Failure:
        """Evaluates the base without an adapter on the same rows. Every slot starts there. Changes nothing."""

    def snapshot(self, slot: int) -> bytes:
        """Returns the slot's state. `open` goes on from these bytes as if the slot had never been closed."""

    def adapter(self, slot: int) -> Mapping[str, bytes]:
        """Returns the slot's present adapter as a folder that PEFT can load: file name -> content."""

    def close(self, slot: int) -> None:
        """Frees the slot. Closing a free slot does nothing."""

    def peak_memory_bytes(self) -> int:
        """Returns the most memory used so far: on the GPU (the fullest of several), or by this process on a CPU."""


class Trainable:
    """The functions of a trainable. A module's functions replace the methods of this class (`catalogue.of_module`).

    A trainable must offer REQUIRES, `check`, `fingerprint`, `prepare`, `open_pack` and `need`. The rest has defaults.
    """

    REQUIRES: frozenset[str]
    """Sections of the sweep file that the trainable needs: `model`, `data`, both, or none."""
    METRICS: Mapping[str, Direction] = {EVAL_LOSS: "min"}
    """Metric of its evaluations, the loss among them -> which value is better ("min" or "max")."""
    NESTS_ROWS = False
    """Whether its packs evaluate parts of the rows: see `Pack`."""
    found_as = ""
    """The name under which `catalogue.find` found the trainable."""
    spreads = False
    """Whether the base is spread over all GPUs that the process sees: true if the trainable offers `need_of_gpus`."""

    def check(self, base: TrialSpec) -> list[str]:
        """Lists problems with local files, each "field: what is wrong". Fast; uses no torch and no network."""
        raise NotImplementedError

    def fingerprint(self, base: TrialSpec) -> Mapping[str, str]:
        """Identifies the base model and the data, for the trial keys. Uses no torch and no network."""
        raise NotImplementedError

    def prepare(self, base: TrialSpec, cache: Path) -> Prepared:
        """Reads, tokenises and fingerprints the data. Raises `DataError` when there is nothing to train on."""
        raise NotImplementedError

    def open_pack(self, base: TrialSpec, data: bytes, cache: Path) -> Pack:
        """Loads the base model onto this process's device. All GPUs that the process sees belong to its host."""
        raise NotImplementedError

    def need(self, base: TrialSpec, largest: Sequence[TrialSpec], device: Device) -> Need | None:
        """Estimates memory for the largest specs of a space; None when the model's sizes are unknown."""
        raise NotImplementedError

    # With defaults

    def metrics(self, base: TrialSpec) -> Mapping[str, Direction]:
        """Returns METRICS with the metrics that the spec's `evaluation` adds."""
        return self.METRICS

    def need_of_rows(
        self, base: TrialSpec, largest: Sequence[TrialSpec], device: Device, rows: RowShape
    ) -> Need | None:
        """Estimates as `need`, for rows of a known shape. By default the longest row becomes data.max_length."""
        return self.need(_cut(base, rows), [_cut(spec, rows) for spec in largest], device)

    def need_of_gpus(
        self, base: TrialSpec, largest: Sequence[TrialSpec], device: Device, rows: RowShape | None, gpus: int
    ) -> Need | None:
        """Estimates as `need`, for the fullest of the GPUs that share the base. `rows` is None if unknown.

        By default the base is not spread: the first GPU needs as much as a single one.
        """
        if rows is None:
            return self.need(base, largest, device)
        return self.need_of_rows(base, largest, device, rows)

    def settle_auto(
        self, pack: Pack, base: TrialSpec, largest: Sequence[TrialSpec], rows: RowShape | None, usable: int
    ) -> Need | None:
        """Settles the `auto` settings of a pack for `usable` bytes, before the pack's first trial.

        Returns the need with these settings; None leaves the answer to `need`.
        """
        return None

    def settle_path(self, base: TrialSpec, data: bytes, cache: Path) -> Settled | None:
        """Returns the fastest way to compute passes that is right on this machine and that the spec allows.

        Each host calls this before `open_pack`, and gives `open_pack` the spec with the settled way. None if there is
        nothing to settle.
        """
        return None

    def self_test(self, base: TrialSpec, data: bytes, cache: Path, anew: bool = False) -> SelfTest | None:
        """Returns the result of each way to compute passes on this machine, also where there is nothing to settle.

        Tests now if `anew`, or if no result is kept. None if there is only one way.
        """
        return None

    def preview(self, base: TrialSpec) -> Preview:
        """Looks into local data in which `check` finds no mistake, for `validate` and `plan`. Uses no network.

        `base` has no model if that of the sweep file is wrong.
        """
        return Preview()

    def look_up(self, base: TrialSpec, cache: Path) -> LookedUp:
        """Asks the network about the model and the data before a sweep starts. Answers within seconds."""
        return LookedUp()

    def fetch_config(self, base: TrialSpec) -> bool:
        """Fetches facts about the base that a plan needs and no file here holds, within seconds.

        Returns whether something was fetched, so that the sweep file must be read again.
        """
        return False

    def engine(self, base: TrialSpec) -> str | None:
        """Names the engine that will compute the losses; None if unknown before the base is loaded."""
        return None

    def resolve_targets(self, base: TrialSpec, values: Sequence[TargetModules], cache: Path) -> Sequence[Target] | None:
        """Returns the layers that each of `values` selects on the base, in order, without weights. Raises `ModelError`.

        None if the layers are known only once a trial is opened.
        """
        return None

    def blindness(self) -> str | None:
        """Returns why the libraries see no GPU in this process, and the way out; None if they see one or if unknown."""
        return None


def _cut(spec: TrialSpec, rows: RowShape) -> TrialSpec:
    """Returns the spec with data.max_length lowered to the longest row, since memory depends on the real rows."""
    if spec.data is None or rows.longest >= spec.data.max_length:
        return spec
    return spec.model_copy(update={"data": spec.data.model_copy(update={"max_length": max(8, rows.longest)})})
