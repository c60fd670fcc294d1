"""Scores adapters again, one after another. Promotion decides by these scores.

This checks independently what training saved: it loads the base as in training, loads each adapter from its files with
plain PEFT, and computes the losses without the training engine.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from trainables import qlora_metrics
from trainables.base import base_checks, base_model, model_files, model_source
from trainables.contract import Evaluation
from trainables.data import dataset, sources, templates
from trainables.data.rendering import Renderer
from trainables.errors import DataError, ModelError
from trainables.inputs.legible import legible
from trainables.packing.batches import pad, padded_losses
from trainables.packing.passes import evaluation_passes
from trainables.scoring.requests import (
    BASE,
    BaseFacts,
    Sample,
    ScoringProgress,
    ScoringRequest,
    ScoringResult,
    Tell,
    of_option,
    problems,
    tell_nobody,
)
from trainables.specs import DataSpec, TrialSpec

_NAMED = ("eval", "held_out", "test")
"""The values of `ScoringRequest.rows` that are not a file."""


class AdapterScorer:
    """A `Scorer` with transformers and PEFT, on the GPU if there is one.

    Raises `ModelError` when the base cannot be loaded, and for a hub model whose commit is not known.
    """

    def __init__(self, base: TrialSpec, cache: Path) -> None:
        self._spec = base
        self._cache = cache
        self._tokenizer = base_model.load_tokenizer(base, cache)
        self._base = base_model.load(base, cache)
        self._source = model_source.locate(base.base_model.source)
        if self._source.kind == "hub" and self._base.origin is None:
            raise ModelError(_unknown_commit(base, cache))

    def score(self, request: ScoringRequest, tell: Tell = tell_nobody) -> ScoringResult:
        """See `Scorer.score`.

        Raises:
            DataError: the rows cannot be used.
            ModelError: an adapter cannot be loaded.
        """
        split, fingerprint = self._rows(request.rows)
        base_checks.refuse_long_rows(self._base.model, self._spec, dataset.longest(split))
        base_checks.refuse_unknown_tokens(self._base.model, self._spec, dataset.highest_token(split))
        trained_on = 0 if request.rows in _NAMED else self._trained_on(split)
        scores: dict[str, Evaluation | None] = {}
        if request.with_base:
            scores[BASE] = self._losses(BASE, self._base.model, split, tell)
        for name, files in request.adapters.items():
            scores[name] = self._with_adapter(name, files, split, tell)
        samples = self._samples(request.rows, split, request.samples)
        return ScoringResult(
            scores={name: each for name, each in scores.items() if each is not None},
            hardware=self._base.hardware,
            fingerprint=fingerprint,
            samples=samples,
            ends=self._ends(split),
            trained_on=trained_on,
            not_finite=tuple(name for name, each in scores.items() if each is None),
        )

    def base_facts(self) -> BaseFacts:
        """See `Scorer.base_facts`."""
        model, source, origin = self._spec.base_model, self._source, self._base.origin
        quantization = self._spec.quantization.model_dump(exclude={"residency"})
        quantization["compute_dtype"] = self._base.hardware.split()[1]
        with tempfile.TemporaryDirectory() as folder:
            self._tokenizer.save_pretrained(folder)
            tokenizer = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
        data = self._spec.data_spec
        return BaseFacts(
            source=model.source,
            revision=None if origin is None else origin.commit,
            kind=source.kind,
            files=_digests(source) if origin is None else dict(origin.files),
            quantization=quantization,
            trust_remote_code=model.trust_remote_code,
            licence=_licence(source),
            form=data.model_dump(
                include={"prompt", "completion", "messages", "train_on", "text", "system", "max_length"}
            ),
            columns=_columns(data),
            tokenizer=tokenizer,
        )

    # Rows

    def _rows(self, which: str) -> tuple[dataset.Split, str]:
        if which == "eval":
            prepared = dataset.prepare(self._spec.data_spec, self._tokenizer, self._cache)
            return dataset.load(prepared.payload).eval, prepared.summary.fingerprint
        data, name = _source(self._spec.data_spec, which)
        # Rows held out of data.train are exactly those that the sweep was scored on.
        held_out = data.eval is None and name == "eval"
        split = self._rows("eval")[0] if held_out else self._whole(data, name, which)
        return split, dataset.split_fingerprint(split)

    def _whole(self, data: DataSpec, name: sources.SplitName, which: str) -> dataset.Split:
        try:
            return dataset.whole(data, name, self._tokenizer)
        except DataError as error:
            if which in _NAMED:
                raise
            raise DataError("\n".join(map(of_option, str(error).splitlines()))) from error

    def _trained_on(self, split: dataset.Split) -> int:
        """Counts the rows of a file that were trained on. Raises `DataError` when all of them were."""
        prepared = dataset.prepare(self._spec.data_spec, self._tokenizer, self._cache)
        shared = dataset.shared_rows(split, dataset.load(prepared.payload).train)
        if shared == len(split):
            raise DataError(
                of_option(f"all of its rows ({shared}) are also in data.train, so all is trained on: give other rows")
            )
        return shared

    def _ends(self, split: dataset.Split) -> dict[str, int]:
        """Returns the special tokens that whole rows end in; see `ScoringResult.ends`."""
        tokenizer, most = self._tokenizer, self._spec.data_spec.max_length
        last = {int(row.ids[-1]) for row in map(split.row, range(len(split))) if len(row.ids) < most}
        special = {place for place, token in tokenizer.added_tokens_decoder.items() if token.special}
        ends = sorted(last & {*special, tokenizer.eos_token_id})
        return dict(zip(tokenizer.convert_ids_to_tokens(ends), ends, strict=True))

    def _samples(self, which: str, split: dataset.Split, count: int) -> tuple[Sample, ...]:
        """Returns the first `count` scored rows, with the columns that they were made from."""
        kept = [split.row(i) for i in range(min(count, len(split)))]
        columns: Iterator[dict[str, str]] = repeat({})
        if kept and self._spec.data_spec.text is None:
            columns = self._columns_of(kept, which)
        return tuple(
            Sample(columns=given, ids=tuple(row.ids.tolist()), labelled=tuple(row.labelled.nonzero()[0].tolist()))
            for row, given in zip(kept, columns, strict=False)
        )

    def _columns_of(self, kept: Sequence[dataset.TokenRow], which: str) -> Iterator[dict[str, str]]:
        """Yields the columns that a caller would give for each row of `kept`; skips rows that were left out."""
        data, name = _source(self._spec.data_spec, which)
        renderer = Renderer(data, self._tokenizer)
        held_out = data.eval is None and name == "eval"
        rest = (row for _, row, _ in (sources.divided(data)[1] if held_out else sources.placed(data, name)))
        for number, wanted in enumerate(kept, 1):
            for row in rest:
                (encoded,) = renderer.encode([renderer.text(row)])
                tokens = encoded.ids[: data.max_length], bytes(encoded.labelled[: data.max_length])
                if tokens == (wanted.ids.tolist(), wanted.labelled.tobytes()):
                    yield _given(data, row)
                    break
            else:
                raise DataError(f"data: scored row {number} is no longer in the data: restore the rows and try again")

    # Losses

    def _with_adapter(
        self, name: str, files: Mapping[str, bytes], split: dataset.Split, tell: Tell
    ) -> Evaluation | None:
        wrong = problems(self._spec, files, same_source=False)
        if wrong:
            raise ModelError("\n".join(f"adapter {name}: {problem}" for problem in wrong))
        with tempfile.TemporaryDirectory() as folder:
            for file, content in files.items():
                (Path(folder) / file).write_bytes(content)
            try:
                adapted = PeftModel.from_pretrained(self._base.model, folder)
            except Exception as error:  # a foreign configuration can make PEFT raise anything
                vars(self._base.model).pop("peft_config", None)  # as below
                raise ModelError(f"adapter {name}: PEFT cannot load it: {legible(str(error), 300)}") from error
        adapted.eval()
        try:
            return self._losses(name, adapted, split, tell)
        finally:
            adapted.unload()
            # PEFT leaves this attribute behind, and warns about it at the next adapter (peft_model.py, 0.21.2).
            vars(self._base.model).pop("peft_config", None)

    def _losses(self, name: str, model: Any, split: dataset.Split, tell: Tell) -> Evaluation | None:
        """Scores a model; returns None where a metric is not finite."""
        totals, done = [0.0] * len(split), 0
        tell(ScoringProgress(name=name, rows=len(split)))
        with torch.no_grad():
            for places, batch in evaluation_passes([split.row(i) for i in range(len(split))]):
                counts = [row.labels for row in batch]
                losses = padded_losses(model, pad(batch), self._base.device)
                for place, piece in zip(places, losses.cpu().double().split(counts), strict=True):
                    totals[place] = float(piece.sum())
                done += len(batch)
                tell(ScoringProgress(name=name, done=done, rows=len(split)))
        tokens = tuple(split.row(i).labels for i in range(len(split)))
        if not all(map(math.isfinite, qlora_metrics.evaluate(totals, tokens).values())):
            return None
        return qlora_metrics.evaluation(totals, tokens, split.groups, self._base.hardware)


def _source(data: DataSpec, which: str) -> tuple[DataSpec, sources.SplitName]:
    """Returns the data and the split that `which` names; see `ScoringRequest.rows`."""
    if which == "eval":
        return data, "eval"
    if which == "held_out":
        return data.model_copy(update={"eval_examples": data.eval_examples if data.eval is None else None}), "eval"
    if which == "test":
        return data, "test"
    return data.model_copy(update={"test": which}), "test"


def _columns(data: DataSpec) -> tuple[str, ...]:
    """Returns the columns that a caller gives: of the prompt, or the chat; only "prompt" where there are none."""
    if data.messages is not None:
        return (data.messages,)
    if data.prompt is None:
        return ("prompt",)
    return templates.parse("prompt", data.prompt).columns or ("prompt",)


def _given(data: DataSpec, row: templates.Row) -> dict[str, str]:
    """Returns the columns of a row as a caller gives them: a chat as JSON, up to the message that is answered last."""
    if data.messages is not None:
        asked = templates.chat(row, data.messages)[:-1]
        return {data.messages: json.dumps(asked, default=str)}
    columns = () if data.prompt is None else templates.parse("prompt", data.prompt).columns
    return {column: str(row[column]) for column in columns}


def _digests(source: model_source.Source) -> dict[str, str]:
    """Returns the digests of a local model's weight files; see `BaseFacts.files`."""
    if source.path is None:
        return {}
    if source.kind == "gguf":
        return {source.path.name: model_files.sampled_digest(source.path)}
    return base_model.weight_digests(source.path)


def _unknown_commit(base: TrialSpec, cache: Path) -> str:
    model = base.base_model
    problem = f"model.source: the loaded commit of {model.source!r} is not known, so it cannot be served again"
    if base.quantization.scheme == "none":
        return f"{problem}: pin model.revision to a commit, or have the model in the hub cache"
    return (
        f"{problem}: pin model.revision to a commit, or have the model in the hub cache and delete {cache / 'bases'}, "
        "which an earlier version wrote: the next start makes it again"
    )


def _licence(source: model_source.Source) -> str | None:
    """Reads the licence from the files of the model; returns None when they do not name one."""
    if source.path is None:
        return None
    try:
        if source.kind == "gguf":
            return model_files.gguf_text(source.path, "general.license")
        lines = (source.path / "README.md").read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return None
    return next((line.split(":", 1)[1].strip() for line in lines[:40] if line.startswith("license:")), None)
