"""Specifies what one trial trains. The specifications are fully resolved, frozen, strict, and free of torch.

A `TrialSpec` is the base specification of a sweep with one point of the search space applied. The docstring of a field
names its unit; the JSON schema of the sweep file is generated from these classes.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from textwrap import dedent
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from trainables.inputs.legible import legible
from trainables.quantization import SCHEMES, Residency, Scheme, SchemeName

LARGEST_NUMBER = 10**15
"""The largest whole number in a sweep file. Sums and products of a few such numbers are exact enough for plans."""
Positive = Annotated[int, Field(gt=0, le=LARGEST_NUMBER)]
MOST_KEPT = 5000
"""The most characters of a text in the event log."""
Words = Annotated[str, BeforeValidator(lambda value: legible(value, MOST_KEPT) if isinstance(value, str) else value)]
"""The type of a field for foreign text, which is made legible when it is set."""
DEFAULT_ALPHA_OVER_R = 2.0
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MOST_SECONDS = 10_000 * 86400
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


class Spec(BaseModel):
    """Base of every specification: immutable, no unknown keys, no silent conversion, finite numbers only."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # pydantic's use_attribute_docstrings would read the source of each class at its import.
        schema = handler(core)
        fields = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in _docstrings(cls):
            if name in fields and "description" not in fields[name]:
                fields[name]["description"] = text
        return schema


def _docstrings(kind: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Yields each field of a class and its bases that has a docstring, and the docstring."""
    for each in kind.__mro__:
        if issubclass(each, Spec) and each is not Spec:
            (parsed,) = ast.parse(dedent(inspect.getsource(each))).body
            for field, text in pairwise(getattr(parsed, "body", ())):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                        yield name, inspect.cleandoc(words)


def seconds(duration: str) -> float:
    """Returns the seconds of a duration such as 90s, 30m, 2h or 1d; raises ValueError for anything else."""
    match = _DURATION.fullmatch(duration.strip())
    if match is None or float(match[1]) == 0:
        raise ValueError("must be a duration above 0 with its unit: 90s, 30m, 2h or 1d")
    total = float(match[1]) * _UNIT_SECONDS[match[2]]
    if total > _MOST_SECONDS:
        raise ValueError("must be at most 10000d")
    return total


def _is_duration(value: object) -> object:
    seconds(str(value))
    return value


Duration = Annotated[str, BeforeValidator(_is_duration)]


class ModelFacts(Spec):
    """Sizes of a base model, for planning when its configuration cannot be read (a hub model, for example)."""

    of: str | None = None
    """The model.source that the facts describe; the model.source beside them when left out. For another source they are
    not used."""
    parameters: Positive
    """All parameters of the model."""
    layers: Positive
    hidden_size: Positive
    intermediate_size: Positive
    vocab_size: Positive
    attention_heads: Positive
    key_value_heads: Positive
    head_dim: Positive | None = None
    """Width of one attention head; hidden_size / attention_heads when left out."""
    model_type: str | None = None
    """The model_type of config.json, which decides the engine and so the memory; llama when left out."""


class ModelSpec(Spec):
    """The frozen base model."""

    source: str = Field(min_length=1)
    """Hub id, local folder, path of a .gguf file, or package:NAME/FILE.gguf (a file inside an installed package)."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read that code."""
    facts: ModelFacts | None = None
    """Sizes for `plan` when the model's own configuration is out of reach."""

    @property
    def own_facts(self) -> ModelFacts | None:
        """`facts` if they describe this source, else None."""
        return self.facts if self.facts is not None and self.facts.of in (None, self.source) else None


class QuantizationSpec(Spec):
    """Precision of the frozen base (QLoRA, arXiv 2305.14314, section 3)."""

    scheme: SchemeName = "nf4"
    """nf4 and fp4 are QLoRA; none is plain LoRA on an unquantised base."""
    double_quant: bool = True
    """Quantise the quantisation constants too, which saves about 0.4 bits per parameter."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the base's activations. auto: bfloat16 on a GPU that has it, else float32, as on every CPU."""
    residency: Literal["auto", Residency] = "auto"
    """Form of a 4-bit base in memory while adapters train. dequantised: the base is dequantised once, to compute_dtype,
    which makes steps faster. 4bit: every pass dequantises layer by layer. The numbers are equal. auto: dequantised if
    that takes at most 1 GB more (4 GB on a GPU)."""

    @property
    def traits(self) -> Scheme:
        """What the scheme answers for itself."""
        return SCHEMES[self.scheme]

    @property
    def is_double(self) -> bool:
        """Whether the constants of quantisation are quantised too."""
        return self.double_quant and self.traits.is_quantised


_CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


def _keeps_base(init: object) -> object:
    if isinstance(init, str) and init.startswith(_CHANGES_BASE):
        raise ValueError("changes the weights of the base, which trials share: take default, gaussian or orthogonal")
    return init


class AdapterSpec(Spec):
    """One LoRA adapter (arXiv 2106.09685)."""

    r: Positive = 16
    """Rank of the update."""
    alpha_over_r: Annotated[float, Field(gt=0, le=LARGEST_NUMBER)] | None = None
    """lora_alpha as a ratio to r; 2 when lora_alpha is not given. With a fixed ratio the best learning rate falls as r
    grows; with a fixed lora_alpha one range of rates serves all ranks."""
    lora_alpha: Annotated[float, Field(gt=0, le=LARGEST_NUMBER)] | None = None
    """lora_alpha itself, in place of alpha_over_r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapter's inputs that are dropped in training."""
    target_modules: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = "attention-qv"
    """A preset (attention-qv, attention, mlp, all-linear) or a list of module names."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r (arXiv 2312.03732)."""
    use_dora: bool = False
    """DoRA (arXiv 2402.09353): learn the length of each row of a weight apart from its direction, which B A changes.
    Steps are slower, and servers take such an adapter merged only."""
    init: Annotated[Literal["default", "gaussian", "orthogonal"], BeforeValidator(_keeps_base)] = "default"
    """How A and B start, as PEFT's init_lora_weights names it. default: A uniform (Kaiming), B 0. gaussian: A normal,
    B 0. orthogonal: both random and small, their product starting near 0; r must be even."""

    @model_validator(mode="after")
    def _one_alpha(self) -> AdapterSpec:
        if self.lora_alpha is not None and self.alpha_over_r is not None:
            raise ValueError("lora_alpha and alpha_over_r say the same thing twice: keep one of them")
        if self.init == "orthogonal" and self.r % 2:
            raise ValueError(f"init: orthogonal needs an even r, and r is {self.r}")
        return self

    @property
    def alpha(self) -> float:
        """The resolved lora_alpha."""
        return self.lora_alpha if self.lora_alpha is not None else (self.alpha_over_r or DEFAULT_ALPHA_OVER_R) * self.r


class DataSpec(Spec):
    """Rows to train on and rows to evaluate on. Exactly one of completion, messages and text says how a row reads."""

    train: Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """A .jsonl, .csv or .parquet file, a folder of such files or of `save_to_disk`, a list of files or folders, or a
    hub data set id (`owner/name`, optionally `owner/name:config`)."""
    eval: str | None = None
    """A file or a hub data set id, as `train`. Without it, `eval_examples` rows of `train` are held out."""
    test: str | None = None
    """Rows for promotion alone. The sweep only fingerprints them and compares them with the other rows."""
    revision: str | None = None
    """Branch, tag or commit of the hub data sets. A commit needs all of them in one repository."""
    train_split: str = "train"
    """Split of a hub data set, or of a saved DatasetDict, that `train` reads."""
    eval_split: str = "validation"
    """Split of a hub data set, or of a saved DatasetDict, that `eval` reads."""
    test_split: str = "test"
    """Split of a hub data set, or of a saved DatasetDict, that `test` reads."""
    prompt: str | None = None
    """Template over the row's columns, for example "{question}"."""
    completion: str | None = None
    """Template of the answer; the loss counts its tokens only."""
    system: str | None = None
    """System message put before every prompt, where the chat template has a place for it."""
    messages: str | None = None
    """Column that holds a chat: a list of {role, content}, or of {from, value} as ShareGPT has it."""
    train_on: Literal["last", "all"] = "last"
    """Assistant messages of a chat that count in the loss. last: the last one. all: every one that answers another
    message. With last, the evaluation loss is that of the final answer after a whole chat, and any chat template
    works."""
    text: str | None = None
    """Template of plain text; the loss counts every token but the first."""
    max_length: Annotated[int, Field(ge=8, le=LARGEST_NUMBER)] = 512
    """Tokens per row; longer rows are cut on the right, counted and reported."""
    eval_examples: Positive | None = 200
    """Number of rows to evaluate on, the first ones of `eval`; null takes all."""
    # Saved configurations without hold_out mean the last rows; `load.read` gives sweep files their default.
    hold_out: Literal["drawn", "last"] = Field("last", json_schema_extra={"default": "drawn"})
    """Rows of `train` to hold out if there is no `eval`. drawn: at random, the same rows in every sweep on this data.
    last: the last rows."""
    # As hold_out: a saved configuration without these two fields is of a sweep that knew neither.
    test_examples: Positive | Literal["auto"] | None = Field(None, json_schema_extra={"default": "auto"})
    """Number of rows of `train` that promotion alone sees, drawn like those held out, after these; null draws none.
    auto: 200, where there is no `test` and at least 1,200 rows of `train` are not held out; else, and where groups or
    equal rows are too large to be drawn, none."""
    copies: Literal["together", "apart"] = Field("apart", json_schema_extra={"default": "together"})
    """Equal rows of `train`, where rows are drawn from it. together: on one side, to train on, to evaluate on or to
    test on. apart: each is drawn by itself, so that some rows are both trained on and evaluated on. With `group_by`,
    groups are drawn whatever `copies` says, and equal rows of several groups are counted in a warning."""
    all_rows: bool = False
    """Train on the rows to evaluate on too, and evaluate on the test rows: see `qsweep refit --all-rows`."""
    group_by: Annotated[str, Field(min_length=1)] | None = None
    """Column whose equal values mark rows that belong together, such as questions on one document."""
    stratify_by: Annotated[str, Field(min_length=1)] | None = None
    """Column of labels. Each label has the same share of the rows held out as of `train`."""

    @model_validator(mode="after")
    def _one_form(self) -> DataSpec:
        rule = "a row reads as prompt and completion, as messages, or as text"
        given = [name for name in ("prompt", "completion", "messages", "text") if getattr(self, name) is not None]
        if not given:
            example = 'prompt: "{question}" and completion: "{answer}"'
            raise ValueError(f"{rule}: none of them given; set, for example, {example}")
        if len({"prompt" if name == "completion" else name for name in given}) > 1:
            names = f"{', '.join(given[:-1])} and {given[-1]}"
            raise ValueError(f"{rule}: {names} given; keep one of these three, and leave out the others")
        if self.prompt is not None and self.completion is None:
            raise ValueError("prompt needs completion: the template of the answer to train on")
        if self.completion is not None and self.prompt is None:
            raise ValueError('completion needs prompt: the template of the question (for plain text use text: "...")')
        if self.system is not None and self.prompt is None:
            raise ValueError("system goes with prompt and completion only: messages bring their own system message")
        if self.train_on != "last" and self.messages is None:
            raise ValueError("train_on goes with messages only: other rows have one answer")
        if self.stratify_by is not None and (self.eval is not None or self.hold_out == "last"):
            raise ValueError("stratify_by says how rows of train are drawn: leave out eval and hold_out: last")
        if self.test is not None and self.test_examples is not None:
            raise ValueError(f"test_examples: {self.test_examples} goes without data.test: keep one of the two")
        if self.eval is None and self.eval_examples is None:
            raise ValueError("eval_examples: null needs data.eval: say how many rows of train to hold out")
        return self

    @property
    def may_draw(self) -> bool:
        """Whether rows of `train` may be drawn for another use."""
        return self.eval is None or self.test_examples is not None


class TrainingSpec(Spec):
    """How one adapter is trained."""

    batch_size: Positive = 4
    """Rows per micro-batch."""
    gradient_accumulation_steps: Positive = 1
    """Micro-batches per optimizer step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2.0e-4
    """Highest learning rate of AdamW."""
    lora_plus_ratio: Annotated[float, Field(gt=0)] | None = None
    """LoRA+ (arXiv 2402.12354): the learning rate of B over that of A, which is learning_rate; null and 1 are plain
    LoRA."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the learning rate after the warm-up, over the sweep's steps_per_trial."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of the steps in which the learning rate rises linearly from 0. The default is short, because early stopping
    ranks trials after a few steps, and most of these steps should have the full rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of AdamW."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of AdamW's mean of gradients that a step keeps."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Share of AdamW's mean of squared gradients that a step keeps."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw is PyTorch's. adamw_8bit is bitsandbytes': the moments of a matrix of 4,096 numbers or more take 2 bytes
    for each number in place of 8."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Clip the gradient of each adapter to this norm; null does not clip."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Recompute activations in the backward pass instead of keeping them. auto: only on hosts whose free memory would
    not hold one of the space's largest trials otherwise."""
    engine: Literal["auto", "flat", "grouped", "peft"] = "auto"
    """The engine that computes passes; losses differ by rounding alone. flat: without padding, one adapter after the
    other. grouped: without padding, all adapters together, for GPUs. peft: PEFT's own layers, the reference. auto: on a
    GPU the fastest engine that the self-test finds right; on a CPU flat if the model allows it, else peft."""
    pass_tokens: Positive | Literal["auto"] = "auto"
    """The most tokens that trials of a host train on in one pass; a single micro-batch of one trial may have more.
    auto: on a GPU the number that the self-test finds to be enough; elsewhere 4,096."""
    snapshot_every: Positive | Duration = "5m"
    """Steps, or a duration such as 90s or 5m, after which a trial is saved between its report points."""
    step_seconds: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Toy only: seconds of one step, for demonstrations and fault tests."""
    eval_seconds: Annotated[float, Field(ge=0)] = 0.0
    """Toy only: seconds of one evaluation."""


LEAST_PART = 16
"""The fewest evaluation rows at a report point."""


def warmup_steps(warmup_ratio: float, steps: int) -> int:
    """Returns the number of steps of the warm-up. Its last step has the full rate, so 1 means no warm-up."""
    return math.ceil(warmup_ratio * steps)


def learning_rate(training: TrainingSpec, step: int, steps: int) -> float:
    """Returns the learning rate of optimizer step `step` (1 to `steps`).

    The rate rises linearly over the first warmup_ratio x steps, rounded up, then falls towards 0 as `schedule` says, or
    stays. The formulas are transformers' get_linear_schedule_with_warmup and get_cosine_schedule_with_warmup
    (optimization.py, 5.24), shifted so that neither the first nor the last step has a rate of 0.
    """
    warmup = warmup_steps(training.warmup_ratio, steps)
    if step <= warmup:
        return training.learning_rate * step / warmup
    if training.schedule == "constant":
        return training.learning_rate
    done = (step - 1 - warmup) / (steps - warmup)
    factor = 1.0 - done if training.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return training.learning_rate * factor


class EvaluationSpec(Spec):
    """How the answers of trials are scored, beside the loss. Scoring does not change training."""

    metrics: Annotated[tuple[str | dict[str, dict[str, Any]], ...], Field(strict=False)] = ()
    """Graders of trainables/grading by name (exact_match, contains, choice, number, regex, json_valid, json_fields,
    math), with options as {number: {tolerance: 0.01}}; or a function of your own, module:function or
    FILE.py:function, which takes the row and the answer and returns a finite number, or a mapping of names to such
    numbers (docs/scores.md)."""
    when: Literal["last", "every", "best"] = "last"
    """last: a trial's answers are scored at its last report point, where the trial is complete. every: at each report
    point. best: the answers of the finalists (the 4 best trials by what stops trials, and the default configuration)
    are scored when the sweep ends, at their best steps, in one batch. The base is scored after the first report of a
    trial, and after a minute without one."""
    examples: Positive | None = None
    """Number of rows to answer, drawn at random from the evaluation rows, the same for all trials; all when left
    out."""
    rows: Literal["all", "nested"] = "all"
    """Evaluation rows at a report point. all: all of them. nested: a part, the same for all trials there: 1 /
    rows_factor of the rows at the first report point, more at each later one, all at the last one. The parts are the
    beginnings of one random order. The default configuration and the base are evaluated on all rows, and so is the
    winner."""
    rows_factor: Annotated[int, Field(ge=2, le=16)] = 4
    """With `rows: nested`, the evaluation rows over those at the first report point, which are at least 16."""
    max_new_tokens: Positive | None = None
    """Tokens after which an answer is cut off; when left out, a quarter more than the longest completion has, and at
    least 8."""
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    """0 takes the most likely token each time. Above 0, tokens are drawn; each row has one seed for all trials."""

    def parts(self, rows: int, points: int) -> tuple[int | None, ...]:
        """Returns the number of `rows` evaluation rows at each of so many report points; None for all of them.

        The numbers rise by the same factor from each report point to the next.
        """
        if self.rows == "all":
            return (None,) * points
        shares = (self.rows_factor ** (place / (points - 1) - 1) for place in range(points - 1))
        # Rounded, because powers differ in their last digit between machines.
        sizes = (max(LEAST_PART, math.ceil(round(rows * share, 6))) for share in shares)
        return (*(size if size < rows else None for size in sizes), None)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the graders and functions, and answers_ended."""
        entries = [entry if isinstance(entry, str) else "".join(entry) for entry in self.metrics]
        return (*(entry.rpartition(":")[2] for entry in entries), "answers_ended") if entries else ()

    def main_among(self, given: Iterable[str]) -> list[str]:
        """Returns the main scores among the given metrics: a grader's first metric, or all metrics of a function."""
        found, there = [], list(dict.fromkeys(given))
        for main in self.names:
            found += [main] if main in there else [name for name in there if name.startswith(f"{main}_")]
        return found

    def scores_by(self, metric: str) -> bool:
        """Tells by the name whether a metric scores answers: the name of a grader, or one that begins with it."""
        return any(metric == name or metric.startswith(f"{name}_") for name in self.names)


def short_names(bases: Collection[str]) -> dict[str, str]:
    """Returns name of a base -> the words of it in which the bases differ: "nf4" where all are of one model."""
    words = {name: name.split() for name in bases}
    shared = set.intersection(*map(set, words.values())) if len(words) > 1 else set()
    return {name: " ".join(word for word in own if word not in shared) or name for name, own in words.items()}


class TrialSpec(Spec):
    """One trial, fully resolved. Two trials with the same spec compute the same numbers."""

    trainable: str = "qlora"
    model: ModelSpec | None = None
    quantization: QuantizationSpec = QuantizationSpec()
    adapter: AdapterSpec = AdapterSpec()
    data: DataSpec | None = None
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    steps: Positive = 81
    """Optimizer steps of a trial that is not stopped; the schedule spans them."""
    seed: Annotated[int, Field(ge=0, le=LARGEST_NUMBER)] = 0
    """Seed of initialisation, data order and dropout."""

    def is_scored_at(self, step: int) -> bool:
        """Tells whether answers are scored at the report point `step`."""
        when = self.evaluation.when
        return bool(self.evaluation.metrics) and (when == "every" or (when == "last" and step == self.steps))

    def without_bfloat16(self) -> TrialSpec:
        """Returns the spec as a GPU without bfloat16 computes it: `compute_dtype: auto` is float32 there."""
        if self.quantization.compute_dtype != "auto":
            return self
        quantization = self.quantization.model_copy(update={"compute_dtype": "float32"})
        return self.model_copy(update={"quantization": quantization})

    @property
    def base_name(self) -> str:
        """The frozen base in words: trials of one name may share a host."""
        how = self.quantization
        source = [] if self.model is None else [self.model.source + (f"@{self.model.revision or ''}".rstrip("@"))]
        double = ["without double_quant"] if how.traits.is_quantised and not how.double_quant else []
        dtype = [] if how.compute_dtype == "auto" else [how.compute_dtype]
        return " ".join([*source, how.scheme, *double, *dtype])

    def on_base_of(self, other: TrialSpec) -> TrialSpec:
        """Returns the spec with the base of another one."""
        return self.model_copy(update={"model": other.model, "quantization": other.quantization})

    @property
    def base_model(self) -> ModelSpec:
        """`model`, for trainables that need a model. Raises ValueError if `model` is missing."""
        if self.model is None:
            raise ValueError("model.source is missing")
        return self.model

    @property
    def data_spec(self) -> DataSpec:
        """`data`, for trainables that need data. Raises ValueError if `data` is missing."""
        if self.data is None:
            raise ValueError("data is missing")
        return self.data
