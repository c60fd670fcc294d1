"""Scores adapters again, one after another. Promotion decides by these scores.

The scorer checks the saved files independently of training: it loads the base as in training, loads each adapter from
its files with plain PEFT, and computes the losses without the training engine. Scores that this machine has computed
before are read from `KeptScores`, without loading the base.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any

import torch
from peft import PeftModel
from pydantic import Field

from trainables import evaluation_metrics
from trainables.base import base_checks, base_model, devices, model_files, model_source
from trainables.cache_files import write_whole
from trainables.contract import Evaluation
from trainables.data import dataset, questions, sources, templates
from trainables.data.questions import Questions
from trainables.data.rendering import Renderer, end_tokens
from trainables.errors import DataError, GradingError, ModelError
from trainables.grading import catalogue
from trainables.inputs.installed import version
from trainables.inputs.legible import legible
from trainables.packing import memory
from trainables.packing.answers import Grading
from trainables.packing.batches import pad, padded_losses
from trainables.packing.generation import Answered, generate_plain, rank_plain
from trainables.packing.passes import PlacedRows, evaluation_passes
from trainables.scoring.requests import (
    BASE,
    MOST_SAMPLES,
    BaseFacts,
    Sample,
    ScoringProgress,
    ScoringRequest,
    ScoringResult,
    Tell,
    of_option,
    problems,
    row_digest,
    rows_of,
    slices_of,
    source_of,
    tell_nobody,
)
from trainables.specs import DataSpec, Spec, TrialSpec

_NAMED = ("eval", "held_out", "test")
"""The values of `ScoringRequest.rows` that are not a file."""
_DECIDING = ("qlora-sweeps", "torch", "peft", "math-verify", "jsonschema")
"""Distributions whose versions decide scores. Only graders use the last two, which may not be installed."""
_METHOD = "1"
"""Raise this number when scoring yields other numbers. Scores kept under an earlier number are then not used."""


class AdapterScorer:
    """A `Scorer` with transformers and PEFT, on the GPU if there is one.

    Raises `ModelError` when the base cannot be loaded, and for a hub model whose commit is not known.
    """

    def __init__(self, base: TrialSpec, cache: Path) -> None:
        self._spec = base
        self._cache = cache
        self._tokenizer = base_model.load_tokenizer(base, cache)
        self._device = devices.first()
        self._dtype = devices.compute_dtype(base.quantization, self._device)
        self._source = model_source.locate(base.base_model.source)
        origin = base_model.origin_of(base, cache)
        identity = base_model.identity(base, self._device, self._dtype, origin)
        if identity is None:
            raise ModelError(
                f"model.source: the loaded commit of {base.base_model.source!r} is not known, so it cannot be served "
                "again: pin model.revision to a commit, or have the model in the hub cache"
            )
        self._conditions = (*identity, devices.kind(self._device), *_versions())
        # Loading fetches the files of a hub model, and only files have digests.
        self._origin = origin if origin is None or origin.files else self._base.origin

    @cached_property
    def _base(self) -> base_model.Base:
        """The base as in training; a GPU keeps its 4 bits, which take less memory there."""
        loaded, facts = base_model.load(self._spec, self._cache), model_source.facts(self._spec.base_model)
        if self._device.type == "cpu" and facts is not None and memory.is_dequantised(self._spec, facts, "cpu"):
            base_model.dequantise(loaded.model)
        return loaded

    def score(self, request: ScoringRequest, tell: Tell = tell_nobody) -> ScoringResult:
        """See `Scorer.score`.

        Raises:
            DataError: the rows cannot be used.
            ModelError: an adapter cannot be loaded.
        """
        split, fingerprint = self._rows(request.rows)
        asked = self._asked(request.rows) if request.with_answers else None
        left_out = self._seen(split, request)
        if any(left_out.values()):
            kept_rows = sorted(set(range(len(split))).difference(*left_out.values()))
            split, asked = dataset.part(split, kept_rows), asked and questions.part(asked, kept_rows)
            fingerprint = dataset.split_fingerprint(split)
        rows = [split.row(i) for i in range(len(split))]
        by = request.slice_by
        slices = () if by is None else slices_of(self._rows_of(rows, request.rows), by)
        adapters = {**({BASE: None} if request.with_base else {}), **request.adapters}
        scored = {name: self._scored(name, files, split, asked, tell) for name, files in adapters.items()}
        told = {name: each for name, each in scored.items() if each is not None}
        renderer = Renderer(self._spec.data_spec, self._tokenizer)
        return ScoringResult(
            scores={name: each.evaluation for name, each in told.items()},
            hardware=base_model.hardware(self._device, self._dtype),
            fingerprint=fingerprint,
            samples=self._samples(request.rows, split, request.samples),
            row_digests=tuple(row_digest(row.ids.tolist(), row.labelled.nonzero()[0].tolist()) for row in rows),
            logprobs={name: each.logprobs[: request.samples] for name, each in told.items()},
            ends=self._ends(split),
            labels={} if asked is None else {label: renderer.without_end(label) for label in asked.labels},
            left_out={part: len(places) for part, places in left_out.items() if places},
            slices=slices,
            not_finite=tuple(name for name in scored if name not in told),
        )

    def base_facts(self) -> BaseFacts:
        """See `Scorer.base_facts`."""
        model, source, origin = self._spec.base_model, self._source, self._origin
        quantization = self._spec.quantization.model_dump(exclude={"residency"})
        quantization["compute_dtype"] = str(self._dtype).removeprefix("torch.")
        with tempfile.TemporaryDirectory() as folder:
            self._tokenizer.save_pretrained(folder)
            tokenizer = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
        data = self._spec.data_spec
        return BaseFacts(
            source=model.source,
            revision=None if origin is None else origin.commit,
            kind=source.kind,
            files=digests(source) if origin is None else dict(origin.files),
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
        data, name = source_of(self._spec.data_spec, which)
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

    def _asked(self, which: str) -> Questions | None:
        """Returns the questions of these rows; None if answers are not scored.

        Asks all rows, whatever evaluation.examples says, since a decision uses all rows. Labels and the most tokens of
        an answer are those of the sweep.
        """
        how, tokenizer, own = self._spec.evaluation, self._tokenizer, self._spec.data_spec
        graders, (data, name) = catalogue.graders(how), source_of(own, which)
        prepared = questions.prepare(own, how, graders, tokenizer, self._cache) if graders else None
        of_sweep = None if prepared is None else questions.read_questions(prepared.payload)
        if of_sweep is None:
            return None
        rows = sources.part_of(data, name, every_column=True)
        return questions.ask(Renderer(data, tokenizer), rows, graders, of_sweep.labels, of_sweep.most)

    def _seen(self, split: dataset.Split, request: ScoringRequest) -> dict[str, set[int]]:
        """Returns part in `request.leave_out` -> places of its rows in `split`. Raises `DataError` if no row is left.

        A row of two parts counts in the first one.
        """
        if not request.leave_out:
            return {}
        sweep = dataset.load(dataset.prepare(self._spec.data_spec, self._tokenizer, self._cache).payload)
        found: dict[str, set[int]] = {}
        for part in request.leave_out:
            found[part] = dataset.shared_rows(split, getattr(sweep, part)).difference(*found.values())
        if sum(map(len, found.values())) == len(split):
            field = {"test": "data.test", "held_out": "the rows held out"}.get(request.rows, "--eval-data")
            raise DataError(f"{field}: all {len(split)} rows are also in data.train, or ranked the trials: give others")
        return found

    def _ends(self, split: dataset.Split) -> dict[str, int]:
        """Returns the special tokens that uncut rows end in: text -> id; see `ScoringResult.ends`."""
        tokenizer, most = self._tokenizer, self._spec.data_spec.max_length
        last = {int(row.ids[-1]) for row in map(split.row, range(len(split))) if len(row.ids) < most}
        ends = sorted(end_tokens(tokenizer, last))
        return dict(zip(tokenizer.convert_ids_to_tokens(ends), ends, strict=True))

    def _samples(self, which: str, split: dataset.Split, count: int) -> tuple[Sample, ...]:
        """Returns the first `count` scored rows, with the columns of their prompts."""
        kept = [split.row(i) for i in range(min(count, len(split)))]
        columns: Iterator[dict[str, str]] = repeat({})
        if kept and self._spec.data_spec.text is None:
            columns = (_given(self._spec.data_spec, row) for row in self._rows_of(kept, which))
        return tuple(
            Sample(columns=given, ids=tuple(row.ids.tolist()), labelled=tuple(row.labelled.nonzero()[0].tolist()))
            for row, given in zip(kept, columns, strict=False)
        )

    def _rows_of(self, kept: Sequence[dataset.TokenRow], which: str) -> Iterator[templates.Row]:
        """Yields the columns of each row of `kept`; skips rows that were left out."""
        data, rest = self._spec.data_spec, rows_of(self._spec.data_spec, which)
        renderer = Renderer(data, self._tokenizer)
        for number, wanted in enumerate(kept, 1):
            for row in rest:
                (encoded,) = renderer.encode([renderer.text(row)])
                tokens = encoded.ids[: data.max_length], bytes(encoded.labelled[: data.max_length])
                if tokens == (wanted.ids.tolist(), wanted.labelled.tobytes()):
                    yield row
                    break
            else:
                raise DataError(f"data: scored row {number} is no longer in the data: restore the rows and try again")

    # Losses and answers

    def _kept(self, split: dataset.Split, asked: Questions | None = None) -> KeptScores:
        """Returns the store for scores of these rows: the losses, and the answers if `asked`."""
        conditions = [*self._conditions, dataset.split_fingerprint(split)]
        if asked is not None:
            told = self._spec.evaluation.model_dump_json() + asked.model_dump_json()
            conditions.append(hashlib.sha256(told.encode()).hexdigest())
        return KeptScores(self._cache / "scores", tuple(conditions))

    def _scored(
        self,
        name: str,
        files: Mapping[str, bytes] | None,
        split: dataset.Split,
        asked: Questions | None,
        tell: Tell,
    ) -> Scored | None:
        """Returns kept or new scores of an adapter, or of the base without `files`. None if a metric is not finite."""
        wrong = [] if files is None else problems(self._spec, files, same_source=False)
        if wrong:
            raise ModelError("\n".join(f"adapter {name}: {problem}" for problem in wrong))
        of_losses, kept, own = self._kept(split), self._kept(split, asked), files or {}
        # A user's function may change.
        has_function = asked is not None and any(":" in "".join(entry) for entry in self._spec.evaluation.metrics)
        known = None if has_function else kept.read(own)
        if known is not None:
            return known
        base_checks.refuse_long_rows(self._base.model, self._spec, dataset.longest(split))
        base_checks.refuse_unknown_tokens(self._base.model, self._spec, dataset.highest_token(split))
        if asked is not None:
            base_checks.refuse_long_rows(self._base.model, self._spec, asked.longest_prompt, asked.longest_answer)
        with self._adapted(name, files) as model:
            made = of_losses.read(own) or self._evaluated(name, model, split, tell)
            if made is None:
                return None
            of_losses.write(own, made)
            if asked is None:
                return made
            graded = self._graded(name, model, asked, made.evaluation, tell)
        made = made.model_copy(update={"evaluation": graded})
        if not has_function:
            kept.write(own, made)
        return made

    @contextmanager
    def _adapted(self, name: str, files: Mapping[str, bytes] | None) -> Iterator[Any]:
        """Yields the base with an adapter while the block runs; the base alone without `files`."""
        if files is None:
            yield self._base.model
            return
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
            yield adapted
        finally:
            adapted.unload()
            # PEFT leaves this attribute behind, and warns about it at the next adapter (peft_model.py, 0.21.2).
            vars(self._base.model).pop("peft_config", None)

    def _evaluated(self, name: str, model: Any, split: dataset.Split, tell: Tell) -> Scored | None:
        """Computes a model's losses; returns None if a metric is not finite."""
        own = [split.row(i) for i in range(len(split))]
        told = _Told(tell, ScoringProgress(doing="computing losses", name=name, rows=len(own)))
        rows = self._losses(model, evaluation_passes(own), told)
        totals, tokens = [float(of_row.sum()) for of_row in rows], tuple(row.labels for row in own)
        if not all(map(math.isfinite, evaluation_metrics.evaluate(totals, tokens).values())):
            return None
        found = evaluation_metrics.evaluation(totals, tokens, split.groups, self._base.hardware, row_bytes=split.sizes)
        # Six decimals: the logits, in float32, are no more exact.
        logprobs = tuple(tuple(round(-loss, 6) for loss in row.tolist()) for row in rows[:MOST_SAMPLES])
        return Scored(evaluation=found, logprobs=logprobs)

    def _graded(self, name: str, model: Any, asked: Questions, by_losses: Evaluation, tell: Tell) -> Evaluation:
        """Returns the evaluation with the scores of the model's answers. Raises `GradingError`."""
        grading, device = Grading(asked, self._spec.evaluation, self._tokenizer), self._base.device
        prompts, labels = grading.prompts(None), grading.label_rows()
        told = _Told(tell, ScoringProgress(doing="answering", name=name, rows=len(prompts)))
        ids, seeds = [prompt.ids for prompt in prompts], [prompt.seed for prompt in prompts]
        answers = generate_plain(model, ids, seeds, grading.answering, device, told.begin) if prompts else []
        told.begin([])
        copies = len(labels[0]) if labels else 1
        told = _Told(tell, ScoringProgress(doing="ranking labels", name=name, rows=len(labels)), copies)
        found = grading.grade(by_losses, answers, rank_plain(model, labels, device, told.begin))
        told.begin([])
        for why in found.unscored.values():
            raise GradingError([f"evaluation.metrics: the answers of {name} cannot be scored: {why}"])
        return found

    def _losses(self, model: Any, passes: Sequence[PlacedRows], told: _Told) -> list[torch.Tensor]:
        """Returns the negative log-likelihood of the labelled tokens of each row of the passes, by its place."""
        losses = [torch.empty(0)] * sum(len(places) for places, _ in passes)
        with torch.no_grad():
            for places, batch in passes:
                told.begin(places)
                found = padded_losses(model, pad(batch), self._base.device)
                pieces = found.cpu().double().split([row.labels for row in batch])
                for place, piece in zip(places, pieces, strict=True):
                    losses[place] = piece
        told.begin([])
        return losses


class _Told:
    """Tells how far the passes over some rows have come. `copies` of a row, one for each label, count as one row."""

    def __init__(self, tell: Tell, progress: ScoringProgress, copies: int = 1) -> None:
        self._tell, self._progress, self._copies = tell, progress, copies
        self._done, self._under_way = 0, frozenset[int]()

    def begin(self, places: Sequence[int]) -> Answered:
        """Notes that a pass over these rows begins, and that others of the pass before are done; returns `reach`."""
        self._done += len(self._under_way.difference(places))
        self._under_way = frozenset(places)
        self.reach(0, 0)
        return self.reach

    def reach(self, complete: int, token: int) -> None:
        """Notes how many answers of the pass are complete, and how many tokens each of the others has."""
        if self._progress.rows:
            done = (self._done + complete) // self._copies
            self._tell(self._progress.model_copy(update={"done": done, "token": token}))


class Scored(Spec):
    """The scores of an adapter, or of the base."""

    evaluation: Evaluation
    logprobs: Annotated[tuple[tuple[float, ...], ...], Field(strict=False)]
    """For each of the first rows, at most `MOST_SAMPLES`, the log-probability of each labelled token."""


@dataclass(frozen=True)
class KeptScores:
    """The kept scores on one base and one set of rows: one file per adapter, named by all that decides the numbers."""

    folder: Path
    conditions: tuple[str, ...]
    """Base, quantisation, hardware, versions of the libraries, and rows."""

    def read(self, adapter: Mapping[str, bytes]) -> Scored | None:
        """Reads the scores of an adapter, or of the base without files. None if the scores are unknown.

        A damaged file counts as missing.
        """
        with suppress(OSError, ValueError):
            digest, _, content = self._file(adapter).read_bytes().partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() == digest:
                return Scored.model_validate_json(content)
        return None

    def write(self, adapter: Mapping[str, bytes], scored: Scored) -> None:
        """Keeps the scores of an adapter. If the file cannot be written, the next scorer computes them again."""
        content = scored.model_dump_json().encode()
        with suppress(OSError):
            write_whole(self._file(adapter), hashlib.sha256(content).hexdigest().encode() + b"\n" + content)

    def _file(self, adapter: Mapping[str, bytes]) -> Path:
        digest = hashlib.sha256("\n".join((_METHOD, *self.conditions)).encode())
        for name, content in sorted(adapter.items()):
            digest.update(f"\n{name} {hashlib.sha256(content).hexdigest()}".encode())
        return self.folder / f"{digest.hexdigest()[:32]}.json"


def _columns(data: DataSpec) -> tuple[str, ...]:
    """Returns the columns that a caller gives: those of the prompt, or the chat column; "prompt" if there are none."""
    if data.messages is not None:
        return (data.messages,)
    if data.prompt is None:
        return ("prompt",)
    return templates.parse("prompt", data.prompt).columns or ("prompt",)


def _given(data: DataSpec, row: templates.Row) -> dict[str, str]:
    """Returns the columns of a row as a caller gives them: a chat as JSON, without its last answer."""
    if data.messages is not None:
        asked = templates.chat(row, data.messages)[:-1]
        return {data.messages: json.dumps(asked, default=str)}
    columns = () if data.prompt is None else templates.parse("prompt", data.prompt).columns
    return {column: str(row[column]) for column in columns}


def _versions() -> list[str]:
    found = []
    for name in _DECIDING:
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def digests(source: model_source.Source) -> dict[str, str]:
    """Returns the digests of a local model's weight files; see `BaseFacts.files`."""
    if source.path is None:
        return {}
    if source.kind == "gguf":
        return {source.path.name: model_files.sampled_digest(source.path)}
    return base_model.weight_digests(source.path)


def _licence(source: model_source.Source) -> str | None:
    """Reads the licence from the files of a local model; returns None if they name none."""
    if source.path is None:
        return None
    try:
        if source.kind == "gguf":
            return model_files.gguf_text(source.path, "general.license")
        lines = (source.path / "README.md").read_text(encoding="utf-8", errors="replace").splitlines()
    except (OSError, ValueError):
        return None
    return next((line.split(":", 1)[1].strip() for line in lines[:40] if line.startswith("license:")), None)
