"""Adapters scored again on rows, one after the other: what promotion decides by.

An independent re-check of what training saved: the base is loaded as it was trained on, each adapter by plain PEFT from
its files, and the losses are computed without the training engine. What goes in and out is JSON and bytes. torch and
the Hugging Face libraries are imported where they are used.
"""

from __future__ import annotations

import json
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field

from trainables import model_source, rows, templates, weight_files
from trainables.errors import DataError, ModelError
from trainables.specs import DataSpec, Spec, TrialSpec

if TYPE_CHECKING:
    from trainables import dataset

BASE = "base"
"""The name that the base without an adapter is scored under."""
_NAMED = ("eval", "held_out", "test")
"""What `Request.rows` may be beside a file."""
_HARMLESS = (".json", ".md")


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
    labels_from: int


class Answer(Spec):
    """What was scored."""

    scores: dict[str, Scores]
    hardware: str
    """Device and type of the activations, as `Evaluation.hardware`."""
    fingerprint: str
    """16 hex digits over the rows' tokens and labels; of eval, the fingerprint of the sweep's data."""
    samples: Annotated[tuple[Sample, ...], Field(strict=False)] = ()


class Parts(Spec):
    """What a packaged adapter needs to find its base again, and to talk to it."""

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
    """How a row reads: the fields of data that say it."""
    columns: Annotated[tuple[str, ...], Field(strict=False)]
    """What a caller gives."""
    tokenizer: dict[str, bytes] = Field(repr=False)
    """The files of the tokenizer, its chat template among them."""


class Scorer(Protocol):
    """A base in memory that scores adapters."""

    def score(self, request: Request) -> Answer:
        """Scores adapters, and the base if asked."""

    def parts(self) -> Parts:
        """What the base is, for a package."""


def problems(base: TrialSpec, files: Mapping[str, bytes], *, same_source: bool = True) -> list[str]:
    """What is wrong with an adapter's files: pickles, no LoRA adapter, and another base than the sweep's.

    Without `same_source`, the base may lie elsewhere or be named by another revision: the names that an earlier sweep's
    adapter gives need not be this sweep's.
    """
    found = []
    for name in sorted(files):
        if not name.endswith((".safetensors", *_HARMLESS)) or "/" in name:
            found.append(f"{name}: an adapter is adapter_config.json and *.safetensors: other files may hold code")
    if not any(name.endswith(".safetensors") for name in files):
        found.append("no *.safetensors: there are no weights")
    try:
        config = json.loads(files["adapter_config.json"])
    except (KeyError, ValueError):
        return [*found, "adapter_config.json: missing, or not JSON"]
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        return [*found, "adapter_config.json: not a LoRA adapter"]
    if config.get("auto_mapping"):
        found.append("adapter_config.json: auto_mapping names code to import")
    if not same_source:
        return found
    source, revision = config.get("base_model_name_or_path"), config.get("revision")
    if source != base.base_model.source:
        wanted = base.base_model.source
        found.append(f"adapter_config.json: base_model_name_or_path is {source!r}, the sweep's is {wanted!r}")
    if (revision or "main") != (base.base_model.revision or "main"):
        wanted = base.base_model.revision or "main"
        found.append(f"adapter_config.json: revision is {revision!r}, the sweep's is {wanted!r}")
    return found


class AdapterScorer:
    """A `Scorer` on transformers and PEFT, on the GPU if there is one.

    Raises `ModelError` when the base cannot be loaded, and when it is a hub model and nobody knows which commit.
    """

    def __init__(self, base: TrialSpec, cache: Path) -> None:
        from trainables import base_model

        self._spec = base
        self._cache = cache
        self._tokenizer = base_model.load_tokenizer(base, cache)
        self._base = base_model.load(base, cache)
        self._source = model_source.locate(base.base_model.source)
        if self._source.kind == "hub" and self._base.origin is None:
            raise ModelError(_unknown_commit(base, cache))
        self._keep: Any = None
        self._base.model.get_output_embeddings().register_forward_pre_hook(self._keep_labelled)

    def score(self, request: Request) -> Answer:
        """See `Scorer.score`.

        Raises:
            DataError: the rows cannot be used.
            ModelError: an adapter cannot be loaded, or its loss is not finite.
        """
        split, fingerprint = self._rows(request.rows)
        scores = {}
        if request.with_base:
            scores[BASE] = self._losses(BASE, self._base.model, split)
        for name, files in request.adapters.items():
            scores[name] = self._with_adapter(name, files, split)
        samples = self._samples(request.rows, split, request.samples)
        return Answer(scores=scores, hardware=self._base.hardware, fingerprint=fingerprint, samples=samples)

    def parts(self) -> Parts:
        """See `Scorer.parts`."""
        model, source, origin = self._spec.base_model, self._source, self._base.origin
        quantization = self._spec.quantization.model_dump() | {"compute_dtype": self._base.hardware.split()[1]}
        with tempfile.TemporaryDirectory() as folder:
            self._tokenizer.save_pretrained(folder)
            tokenizer = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
        data = self._spec.rows
        return Parts(
            source=model.source,
            revision=None if origin is None else origin.commit,
            kind=source.kind,
            files=_digests(source) if origin is None else dict(origin.files),
            quantization=quantization,
            trust_remote_code=model.trust_remote_code,
            licence=_licence(source),
            form=data.model_dump(include={"prompt", "completion", "messages", "text", "system", "max_length"}),
            columns=_columns(data),
            tokenizer=tokenizer,
        )

    # Rows

    def _rows(self, which: str) -> tuple[dataset.Split, str]:
        from trainables import dataset

        if which == "eval":
            prepared = dataset.prepare(self._spec.rows, self._tokenizer, self._cache)
            return dataset.load(prepared.payload).eval, prepared.summary.fingerprint
        data, name = _source(self._spec.rows, which)
        # Held out of the rows to train on: all of them are those that the sweep was scored on.
        held_out = data.eval is None and name == "eval"
        split = self._rows("eval")[0] if held_out else self._whole(data, name, which)
        return split, dataset.split_fingerprint(split)

    def _whole(self, data: DataSpec, name: rows.SplitName, which: str) -> dataset.Split:
        from trainables import dataset

        try:
            return dataset.whole(data, name, self._tokenizer)
        except DataError as error:
            if which in _NAMED:
                raise
            raise DataError("\n".join(map(_of_option, str(error).splitlines()))) from error

    def _samples(self, which: str, split: dataset.Split, count: int) -> tuple[Sample, ...]:
        """The first `count` rows of what was scored, with the columns that they were made of."""
        kept = [split.row(i) for i in range(min(count, len(split)))]
        columns: Iterator[dict[str, str]] = repeat({})
        if kept and self._spec.rows.prompt is not None:
            columns = self._columns_of(kept, which)
        return tuple(
            Sample(columns=given, ids=tuple(row.ids.tolist()), labels_from=row.labels_from)
            for row, given in zip(kept, columns, strict=False)
        )

    def _columns_of(self, kept: Sequence[dataset.Row], which: str) -> Iterator[dict[str, str]]:
        """What a caller would give of each row of `kept`: rows that were left out are passed over."""
        from trainables.rendering import Renderer

        data, name = _source(self._spec.rows, which)
        renderer = Renderer(data, self._tokenizer)
        held_out = data.eval is None and name == "eval"
        rest = iter(deque(rows.read(data, "train"), maxlen=data.eval_examples) if held_out else rows.read(data, name))
        for number, wanted in enumerate(kept, 1):
            for row in rest:
                (encoded,) = renderer.encode([renderer.text(row)])
                if encoded.ids[: data.max_length] == wanted.ids.tolist() and encoded.labels_from == wanted.labels_from:
                    yield {column: str(row[column]) for column in _columns(data)}
                    break
            else:
                raise DataError(f"data: row {number} that was scored is not there any more: leave the rows as they are")

    # Losses

    def _with_adapter(self, name: str, files: Mapping[str, bytes], split: dataset.Split) -> Scores:
        from peft import PeftModel
        from safetensors import SafetensorError

        wrong = problems(self._spec, files, same_source=False)
        if wrong:
            raise ModelError("\n".join(f"adapter {name}: {problem}" for problem in wrong))
        with tempfile.TemporaryDirectory() as folder:
            for file, content in files.items():
                (Path(folder) / file).write_bytes(content)
            try:
                adapted = PeftModel.from_pretrained(self._base.model, folder)
            except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
                raise ModelError(f"adapter {name}: PEFT cannot load it: {str(error).splitlines()[0]}") from error
        adapted.eval()
        try:
            return self._losses(name, adapted, split)
        finally:
            adapted.unload()
            # PEFT warns of a model that was adapted before, and leaves this behind (peft_model.py, 0.21.2).
            vars(self._base.model).pop("peft_config", None)

    def _losses(self, name: str, model: Any, split: dataset.Split) -> Scores:
        import torch

        from trainables.adapter_pack import chunks

        totals = [0.0] * len(split)
        with torch.no_grad():
            for places, batch in chunks([split.row(i) for i in range(len(split))]):
                counts = [len(row.ids) - row.labels_from for row in batch]
                losses = self._token_losses(model, batch)
                for place, piece in zip(places, losses.double().split(counts), strict=True):
                    totals[place] = float(piece.sum())
        if any(total - total != 0.0 for total in totals):
            raise ModelError(f"adapter {name}: its loss is not finite on these rows")
        tokens = tuple(len(row.ids) - row.labels_from for row in map(split.row, range(len(split))))
        return Scores(row_losses=tuple(totals), row_tokens=tokens)

    def _token_losses(self, model: Any, batch: Sequence[dataset.Row]) -> Any:
        """Negative log-likelihoods of the labelled tokens, (labels,), float32; right padding needs no mask."""
        import torch

        length = max(len(row.ids) for row in batch)
        ids_BT = torch.zeros((len(batch), length), dtype=torch.long)
        keep_BT = torch.zeros((len(batch), length), dtype=torch.bool)
        for place, row in enumerate(batch):
            ids_BT[place, : len(row.ids)] = torch.from_numpy(row.ids)
            keep_BT[place, row.labels_from - 1 : len(row.ids) - 1] = True
        answers_N = torch.cat([torch.from_numpy(row.ids[row.labels_from :]) for row in batch]).long()
        self._keep = keep_BT.to(self._base.device)
        try:
            logits_NV = model(input_ids=ids_BT.to(self._base.device), use_cache=False).logits
        finally:
            self._keep = None
        return torch.nn.functional.cross_entropy(
            logits_NV.float(), answers_N.to(self._base.device), reduction="none"
        ).cpu()

    def _keep_labelled(self, _head: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Only positions that have a label go through the head: (rows, length, width) becomes (labels, width)."""
        return None if self._keep is None else (inputs[0][self._keep], *inputs[1:])


def _source(data: DataSpec, which: str) -> tuple[DataSpec, rows.SplitName]:
    """The data and the split of it that `which` names; see `Request.rows`."""
    if which == "eval":
        return data, "eval"
    if which == "held_out":
        return data.model_copy(update={"eval_examples": data.eval_examples if data.eval is None else None}), "eval"
    if which == "test":
        return data, "test"
    return data.model_copy(update={"test": which}), "test"


def check_rows(data: DataSpec, file: str) -> list[str]:
    """What is wrong with a file of rows to decide by: missing, other columns, or the rows that were trained on."""
    others = rows.check(data.model_copy(update={"test": None}))
    found = rows.check(data.model_copy(update={"test": file}))
    return [_of_option(problem) for problem in found if problem not in others and rows.OTHER_TASK not in problem]


def seen_by_search(data: DataSpec, file: str) -> bool:
    """Whether a file of rows to decide by holds the very rows of `data.eval`, which chose the adapters already.

    Files are compared, by their bytes; False where `data.eval` is none that is here.
    """
    return data.eval is not None and rows.same_content(Path(data.eval), Path(file))


def _of_option(problem: str) -> str:
    """A problem of the rows in `data.test` as one of --eval-data, which stood in its place."""
    return f"--eval-data: {problem.removeprefix('data.test: ')}"


def _columns(data: DataSpec) -> tuple[str, ...]:
    """What a caller gives: the prompt's columns; a chat and a plain text have one, prompt."""
    if data.prompt is None:
        return ("prompt",)
    return templates.parse("prompt", data.prompt).columns or ("prompt",)


def _digests(source: model_source.Source) -> dict[str, str]:
    """Of a local model, see `Parts.files`."""
    from trainables import base_model

    if source.path is None:
        return {}
    if source.kind == "gguf":
        return {source.path.name: weight_files.sampled_digest(source.path)}
    return base_model.weight_digests(source.path)


def _unknown_commit(base: TrialSpec, cache: Path) -> str:
    model = base.base_model
    problem = f"model.source: the commit of {model.source!r} that was loaded is not known, so it cannot be served again"
    if base.quantization.scheme == "none":
        return f"{problem}: pin model.revision to a commit, or have the model in the hub cache"
    return (
        f"{problem}: pin model.revision to a commit, or have the model in the hub cache and delete {cache / 'bases'}, "
        "where it lies quantised by an earlier version: it is made again"
    )


def _licence(source: model_source.Source) -> str | None:
    """What the model's own files say of its licence."""
    if source.path is None:
        return None
    try:
        if source.kind == "gguf":
            return weight_files.gguf_text(source.path, "general.license")
        lines = (source.path / "README.md").read_text().splitlines()
    except (OSError, ValueError):
        return None
    return next((line.split(":", 1)[1].strip() for line in lines[:40] if line.startswith("license:")), None)
