"""Adapters scored again on rows: what is asked and answered, JSON and bytes, and what is wrong with what is asked.

`adapter_scorer` does it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import Field

from trainables.contract import Preview
from trainables.data import preview, sources
from trainables.inputs import json_text
from trainables.inputs.legible import legible
from trainables.specs import DataSpec, Spec, TrialSpec

BASE = "base"
"""The name that the base without an adapter is scored under."""
_HARMLESS = (".json", ".md")
_KEEPING = (True, False, None, "gaussian", "eva")
"""Values of init_lora_weights that never look at the base's weights when an adapter is loaded. Of the others, pissa,
olora, corda, loftq and lora_ga change them (peft 0.21 tuners/lora/layer.py, update_layer)."""
_TRAINED_BESIDE = ("modules_to_save", "trainable_token_indices", "layer_replication")
"""Fields by which an adapter brings parts of the base itself; `unload` leaves those in it."""
_PLAIN = {
    *(
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
    ),
    *("r", "target_modules", "lora_alpha", "lora_dropout", "use_rslora", "bias", "init_lora_weights"),
    # Set in every file, and without a meaning for plain LoRA (peft 0.21, tuners/lora/config.py).
    *("fan_in_fan_out", "megatron_core", "qalora_group_size"),
}
"""What the configuration of plain LoRA may set. The rest are other methods, and regular expressions over the names of
modules, which may take for ever to match."""


class Request(Spec):
    """What to score."""

    rows: str
    """eval (the rows that the sweep was scored on), held_out (all of data.eval), test (data.test), or a file."""
    adapters: Mapping[str, Mapping[str, bytes]] = Field(default_factory=dict, repr=False)
    """Name -> files of a PEFT folder. That they are of this base, the caller knows by its content."""
    with_base: bool = False
    """Score the base without an adapter too, under the name `BASE`."""
    samples: int = 0
    """Rows to hand back, the first ones, for a check of what is served."""


class Scores(Spec):
    """The losses of one adapter."""

    row_losses: Annotated[tuple[float, ...], Field(strict=False)]
    """Total negative log-likelihood of each row."""
    row_tokens: Annotated[tuple[int, ...], Field(strict=False)]
    """Completion tokens of each row."""

    @property
    def loss(self) -> float:
        """Negative log-likelihood per completion token."""
        return sum(self.row_losses) / sum(self.row_tokens)


class Sample(Spec):
    """One row, as it is and as tokens."""

    columns: dict[str, str]
    """What a caller would give of the row; empty for a chat and a plain text, which have none."""
    ids: Annotated[tuple[int, ...], Field(strict=False)]
    labelled: Annotated[tuple[int, ...], Field(strict=False)]
    """Positions of the tokens that count."""


class Answer(Spec):
    """What was scored."""

    scores: dict[str, Scores]
    hardware: str
    """Device and type of the activations, as `Evaluation.hardware`."""
    fingerprint: str
    """16 hex digits over the rows' tokens and labels; of eval, the fingerprint of the sweep's data."""
    samples: Annotated[tuple[Sample, ...], Field(strict=False)] = ()


class BaseFacts(Spec):
    """What a packaged adapter must know of its base: where it is, how it is loaded, and the form of its prompts."""

    source: str
    revision: str | None
    """The commit of a hub model; None for others."""
    kind: str
    """hub, folder or gguf."""
    files: dict[str, str]
    """Weight file -> 64 hex digits over its size and samples of it; empty for a hub model of which only the commit is
    known."""
    quantization: dict[str, Any]
    trust_remote_code: bool
    licence: str | None
    form: dict[str, Any]
    """The fields of `data` that say in what form the adapter reads a row."""
    columns: Annotated[tuple[str, ...], Field(strict=False)]
    """The columns of a row that a caller gives."""
    tokenizer: dict[str, bytes] = Field(repr=False)
    """The files of the tokenizer, its chat template among them."""


class Scorer(Protocol):
    """A base in memory that scores adapters."""

    def score(self, request: Request) -> Answer:
        """Scores adapters, and the base if asked."""

    def base_facts(self) -> BaseFacts:
        """Describes the base for a package."""


def problems(base: TrialSpec, files: Mapping[str, bytes], *, same_source: bool = True) -> list[str]:
    """What is wrong with an adapter's files: pickles, no LoRA adapter, and another base than the sweep's.

    Without `same_source`, the base may lie elsewhere or be named by another revision: the names that an earlier sweep's
    adapter gives need not be this sweep's.
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
    faults += _touches_base(config) + _beyond_lora(config)
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


def _touches_base(config: Mapping[str, Any]) -> list[str]:
    """Why the adapter would change the base that the adapters after it are scored on."""
    rule = "it may change the base that other adapters share: only plain LoRA on a frozen base is scored"
    faults = []
    init = config.get("init_lora_weights", True)
    if not any(init is keeping or (isinstance(init, str) and init == keeping) for keeping in _KEEPING):
        way_out = "convert it to plain LoRA with PEFT's path_initial_model_for_weight_conversion"
        faults.append(f"adapter_config.json: init_lora_weights is {init!r}: {rule}; {way_out}")
    if config.get("bias", "none") != "none":
        faults.append(f"adapter_config.json: bias is {config['bias']!r}: {rule}")
    faults += [f"adapter_config.json: {name} is set: {rule}" for name in _TRAINED_BESIDE if config.get(name)]
    return faults


def _beyond_lora(config: Mapping[str, Any]) -> list[str]:
    """What else than plain LoRA on listed modules the adapter is."""
    others = [name for name in config if name not in {*_PLAIN, *_TRAINED_BESIDE} and config[name]]
    faults = [f"adapter_config.json: {legible(name, 60)} is set: only plain LoRA is scored" for name in others]
    modules = config.get("target_modules")
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        faults.append(
            f"adapter_config.json: target_modules is {legible(repr(modules), 100)}, not a list of modules' names"
        )
    return faults


def check_rows(data: DataSpec, file: str) -> list[str]:
    """What is wrong with a file of rows to decide by: missing, other columns, or the rows that were trained on."""
    others = sources.check(data.model_copy(update={"test": None}))
    with_file = sources.check(data.model_copy(update={"test": file}))
    return [of_option(problem) for problem in with_file if problem not in others and sources.OTHER_TASK not in problem]


def look_at_rows(data: DataSpec, file: str) -> Preview:
    """What a look at a file of rows to decide by finds: bad rows, and those that were trained on, by content."""
    look = preview.preview(data.model_copy(update={"test": file}))

    def own(lines: Sequence[str]) -> tuple[str, ...]:
        return tuple(
            of_option(line) for line in lines if line.startswith("data.test: ") and sources.OTHER_TASK not in line
        )

    return Preview(problems=own(look.problems), warnings=own(look.warnings))


def seen_by_search(data: DataSpec, file: str) -> bool:
    """Whether a file of rows to decide by holds the very rows of `data.eval`, which chose the adapters already.

    Files are compared, by their bytes; False where `data.eval` is none that is here.
    """
    return data.eval is not None and sources.same_content(Path(data.eval), Path(file))


def of_option(problem: str) -> str:
    """A problem of the rows in `data.test` as one of --eval-data, which stood in its place."""
    return f"--eval-data: {problem.removeprefix('data.test: ')}"
