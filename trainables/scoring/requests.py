"""Defines requests to score adapters or to export one, and their answers, as JSON and bytes; checks files and rows.

`adapter_scorer` and `adapter_exporter` answer them. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from trainables.contract import Evaluation, Preview
from trainables.data import preview, sources, templates
from trainables.data.templates import Row
from trainables.errors import DataError
from trainables.inputs import json_text
from trainables.inputs.legible import legible
from trainables.quantization import SCHEMES, Scheme
from trainables.scoring import Form
from trainables.specs import DataSpec, Spec, TrialSpec

BASE = "base"
"""The name of the base without an adapter among the scores."""
MOST_SAMPLES = 32
MOST_SLICES = 100
_HARMLESS = (".json", ".md")
_KEEPING = (True, False, None, "gaussian", "eva")
"""Values of init_lora_weights with which loading an adapter never reads the weights of the base. Of the other values,
pissa, olora, corda, loftq and lora_ga change these weights (peft 0.21 tuners/lora/layer.py, update_layer)."""
_PLAIN = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "target_modules", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias", "init_lora_weights",
    # These are in every file, without a meaning for plain LoRA (peft 0.21, tuners/lora/config.py).
    "fan_in_fan_out", "megatron_core", "qalora_group_size",
}  # fmt: skip
"""Fields that the configuration of LoRA, or of DoRA, may set. Other fields belong to other methods, or are regular
expressions over module names, which may take for ever to match."""


class ScoringRequest(Spec):
    """A request to score adapters on rows."""

    rows: str
    """eval (the rows that the sweep was scored on), held_out (all of data.eval, or the rows held out of data.train),
    test (data.test, or the test rows drawn from data.train), or the path of a file."""
    content: bytes | None = Field(default=None, repr=False)
    """Content of the file, since the machine that evaluates may not have the file. A `Scorer` gets a file on disk."""
    adapters: Mapping[str, Mapping[str, bytes]] = Field(default_factory=dict, repr=False)
    """Name -> files of a PEFT folder. The caller has checked that the adapters belong to this base."""
    with_base: bool = False
    """Whether to score the base without an adapter too, under the name `BASE`."""
    samples: int = 0
    """Number of first rows to return, at most `MOST_SAMPLES`, with the log-probabilities of their tokens. A served
    adapter is checked with these rows."""
    with_answers: bool = True
    """Whether to score answers too, if the spec's `evaluation` names graders."""
    leave_out: Annotated[tuple[Literal["train", "eval"], ...], Field(strict=False)] = ()
    """Parts of the sweep's rows, those trained on and those that ranked the trials, whose rows are not scored here."""
    slice_by: str | None = None
    """A column whose value on each row is returned."""


class Sample(Spec):
    """One row as columns and as tokens."""

    columns: dict[str, str]
    """The columns of the row that a caller would give, a chat as JSON; empty for a plain text or a constant prompt."""
    ids: Annotated[tuple[int, ...], Field(strict=False)]
    labelled: Annotated[tuple[int, ...], Field(strict=False)]
    """Positions of the tokens that count in the loss."""


def row_digest(ids: Sequence[int], labelled: Sequence[int]) -> str:
    """Returns 16 hex digits over a row's tokens and the positions of the tokens that count in the loss."""
    return hashlib.sha256(json.dumps([list(ids), list(labelled)]).encode()).hexdigest()[:16]


class ScoringResult(Spec):
    """The answer to a `ScoringRequest`."""

    scores: dict[str, Evaluation]
    """Adapter, or `BASE` -> evaluation, without the names in `not_finite`."""
    hardware: str
    """Device and type of the activations, as in `Evaluation.hardware`."""
    fingerprint: str
    """16 hex digits over the rows' tokens and labels; for eval, the fingerprint of the sweep's data."""
    samples: Annotated[tuple[Sample, ...], Field(strict=False)] = ()
    row_digests: Annotated[tuple[str, ...], Field(strict=False)] = ()
    logprobs: dict[str, tuple[tuple[float, ...], ...]] = Field(default_factory=dict)
    """Each name in `scores` -> for each of `samples`, the log-probabilities of its labelled tokens, in nats."""
    ends: dict[str, int] = Field(default_factory=dict)
    """Text -> id of the special tokens at the end of rows that are surely uncut. Empty if no answer's end is known."""
    labels: dict[str, str] = Field(default_factory=dict)
    """The labels that `choice` ranks, in order: as in the data -> without end tokens; empty if none are ranked."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Part in `ScoringRequest.leave_out` -> number of rows that were not scored. A row of both counts as trained on."""
    slices: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """The value of `slice_by` on each row; at most `MOST_SLICES` different values."""
    not_finite: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """The adapters, or `BASE`, with a row whose loss is not finite."""


class ScoringProgress(Spec):
    """How far a request has come."""

    doing: Literal[
        "loading the base", "computing losses", "answering", "ranking labels", "serving the packaged model"
    ] = "loading the base"
    name: str | None = None
    """The adapter that is scored, or `BASE`; None if no rows are scored."""
    done: int = 0
    rows: int = 0
    token: int = 0
    """Tokens that each answer has which is not complete; 0 before the first one."""


Tell = Callable[[ScoringProgress], None]
"""Receives the progress of the scoring at each pass over some rows."""


def tell_nobody(_progress: ScoringProgress) -> None:
    """Does nothing: the default for `Tell`."""


class BaseFacts(Spec):
    """The facts about a base that a packaged adapter needs: its source, how to load it, and the form of prompts."""

    source: str
    revision: str | None
    """The commit of a hub model; None for a local model."""
    kind: str
    """hub, folder or gguf."""
    files: dict[str, str]
    """Weight file -> 64 hex digits over its size and samples; empty for a hub model if only the commit is known."""
    quantization: dict[str, Any]
    trust_remote_code: bool
    licence: str | None
    form: dict[str, Any]
    """The fields of `data` that decide the text of a row."""
    columns: Annotated[tuple[str, ...], Field(strict=False)]
    """The columns of a row that a caller gives."""
    tokenizer: dict[str, bytes] = Field(repr=False)
    """File name -> content of the tokenizer, with its chat template."""

    @property
    def traits(self) -> Scheme:
        """What the scheme of quantisation answers for itself."""
        return SCHEMES[self.quantization["scheme"]]

    @property
    def loading(self) -> dict[str, Any]:
        """What `BitsAndBytesConfig` is given to load the base as in training; empty if it is not quantised."""
        return self.traits.options(self.quantization["double_quant"], self.quantization["compute_dtype"])


class Scorer(Protocol):
    """A base in memory that scores adapters."""

    def score(self, request: ScoringRequest, tell: Tell = tell_nobody) -> ScoringResult:
        """Scores adapters, and the base if asked; calls `tell` with the progress."""

    def base_facts(self) -> BaseFacts:
        """Describes the base for a package."""


class ExportRequest(Spec):
    """A request to write an adapter, and to score the written files."""

    form: Form
    folder: str
    """An existing folder on this machine, for the files."""
    name: str
    """Name of the GGUF file, without its suffix."""
    adapter: Mapping[str, bytes] = Field(repr=False)
    tokenizer: Mapping[str, bytes] = Field(repr=False)
    """Files of the tokenizer, which go beside a merged model."""
    base_files: Mapping[str, str]
    """`BaseFacts.files` of the promotion. The base on this machine must have the same weights."""
    ends: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """The tokens that ended answers in training. A merged model stops at them too."""
    rows: Annotated[tuple[Sample, ...], Field(strict=False)]


class ExportResult(Spec):
    """The scores of the written files."""

    hardware: str
    """See `Evaluation.hardware`."""
    row_losses: Annotated[tuple[float, ...], Field(strict=False)]
    """Negative log-likelihood of each row, in nats."""


def problems(base: TrialSpec, files: Mapping[str, bytes], *, same_source: bool = True) -> list[str]:
    """Lists the problems of an adapter's files: pickles, not plain LoRA, or another base than the sweep's.

    Without `same_source`, the adapter may name another source or revision, since an earlier sweep may have used other
    names for the same base.
    """
    faults = []
    for name in sorted(files):
        if not name.endswith((".safetensors", *_HARMLESS)) or "/" in name:
            faults.append(f"{name}: an adapter is adapter_config.json and *.safetensors: other files may hold code")
    if not any(name.endswith(".safetensors") for name in files):
        faults.append("no *.safetensors: there are no weights")
    try:
        config = json_text.parse(files["adapter_config.json"])
    except (KeyError, ValueError):
        return [*faults, "adapter_config.json: missing, or not JSON"]
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        return [*faults, "adapter_config.json: not a LoRA adapter"]
    if config.get("auto_mapping"):
        faults.append("adapter_config.json: auto_mapping names code to import")
    faults += _beyond_lora(config)
    if not same_source:
        return faults
    source, revision = config.get("base_model_name_or_path"), config.get("revision")
    if source != base.base_model.source:
        wanted = base.base_model.source
        faults.append(f"adapter_config.json: base_model_name_or_path is {source!r}, the sweep's is {wanted!r}")
    if (revision or "main") != (base.base_model.revision or "main"):
        wanted = base.base_model.revision or "main"
        faults.append(f"adapter_config.json: revision is {revision!r}, the sweep's is {wanted!r}")
    return faults


def _beyond_lora(config: Mapping[str, Any]) -> list[str]:
    """Lists the settings that plain LoRA on listed modules does not have. Some of them would change the base."""
    changes = "it may change the base that other adapters share: only plain LoRA on a frozen base is scored"
    faults, init = [], config.get("init_lora_weights", True)
    if init not in _KEEPING:
        way_out = "convert it to plain LoRA with PEFT's path_initial_model_for_weight_conversion"
        faults.append(f"init_lora_weights is {init!r}: {changes}; {way_out}")
    if config.get("bias", "none") != "none":
        faults.append(f"bias is {config['bias']!r}: {changes}")
    others = [name for name in config if name not in _PLAIN and config[name]]
    faults += [f"{legible(name, 60)} is set: only plain LoRA is scored" for name in others]
    modules = config.get("target_modules")
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        faults.append(f"target_modules is {legible(repr(modules), 100)}, not a list of modules' names")
    return [f"adapter_config.json: {fault}" for fault in faults]


def check_rows(data: DataSpec, file: str, option: str = "--eval-data") -> list[str]:
    """Lists the problems of a file of rows for promotion: missing, with other columns, or a copy of data.train."""
    others = sources.check_data(data.model_copy(update={"test": None}))
    with_file = sources.check_data(data.model_copy(update={"test": file}))
    return [of_option(problem, option) for problem in with_file if problem not in others]


def look_at_rows(data: DataSpec, file: str, option: str = "--eval-data") -> Preview:
    """Looks at the first rows of a file for promotion, and at the first rows of `data.train`, which it may repeat.

    `Scorer.score` looks at all rows.
    """
    look = preview.preview(data.model_copy(update={"test": file}), "the evaluation")

    def own(lines: Sequence[str]) -> tuple[str, ...]:
        return tuple(of_option(line, option) for line in lines if line.startswith("data.test: "))

    return Preview(problems=own(look.problems), warnings=own(look.warnings))


def check_slices(data: DataSpec, which: str, by: str) -> list[str]:
    """Lists the problems of a column that is to divide the rows, as far as the first rows of a local file show them.

    Args:
        which: see `ScoringRequest.rows`.
        by: see `ScoringRequest.slice_by`.
    """
    if not _is_here(data, which):
        return []
    try:
        slices_of(islice(rows_of(data, which), preview.LOOKED_ROWS), by)
    except DataError as error:
        return [str(error)]
    return []


def count_rows(data: DataSpec, which: str) -> int | None:
    """Counts the rows that `which` names, including rows that are not scored; None without a readable local file."""
    try:
        return sum(1 for _ in rows_of(data, which)) if _is_here(data, which) else None
    except DataError:
        return None


def _is_here(data: DataSpec, which: str) -> bool:
    named, split = source_of(data, which)
    source = getattr(named, split) or data.train
    return all(Path(each).exists() for each in ((source,) if isinstance(source, str) else source))


def slices_of(rows: Iterable[Row], by: str) -> tuple[str, ...]:
    """Returns the value of a column on each row. Raises `DataError` for a missing value, or for too many values."""
    try:
        values = tuple(templates.value(row, by) for row in rows)
    except DataError as error:
        raise DataError(f"promotion.slices.by: {error}") from None
    if (count := len(set(values))) > MOST_SLICES:
        way_out = "name one with few values, such as a language"
        raise DataError(f"promotion.slices.by: column {by!r} has {count} values, and at most {MOST_SLICES}: {way_out}")
    return values


def rows_of(data: DataSpec, which: str) -> Iterator[Row]:
    """Reads the rows that `which` names, including rows that are not scored; see `ScoringRequest.rows`."""
    named, split = source_of(data, which)
    return (row for _, row, _ in sources.part_of(named, split, every_column=True))


def source_of(data: DataSpec, which: str) -> tuple[DataSpec, sources.SplitName]:
    """Returns the data and the split that `which` names; see `ScoringRequest.rows`."""
    if which == "eval":
        return data, "eval"
    if which == "held_out":
        return data.model_copy(update={"eval_examples": data.eval_examples if data.eval is None else None}), "eval"
    if which == "test":
        return data, "test"
    return data.model_copy(update={"test": which}), "test"


def seen_by_search(data: DataSpec, file: str) -> bool:
    """Tells whether a file of rows for promotion equals the file `data.eval`, by which the adapters were chosen.

    Compares the bytes of the files; returns False if `data.eval` is not a local file.
    """
    return data.eval is not None and sources.same_content(Path(data.eval), Path(file))


def of_option(problem: str, option: str = "--eval-data") -> str:
    """Rewrites a problem of `data.test` as a problem of the option whose file was checked as `data.test`."""
    return f"{option}: {problem.removeprefix('data.test: ').removesuffix(sources.OTHER_TASK)}"
