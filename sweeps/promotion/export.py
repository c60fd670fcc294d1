"""Exports a version in a form that servers read, and checks that the export scores as the version did."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.scoring import Scoring, scoring
from sweeps.errors import Failed, SweepError
from sweeps.promotion import check_serving, versions
from sweeps.promotion.cards import served_name
from sweeps.promotion.decision_record import PROMOTED, DecisionRecord
from sweeps.promotion.evidence import tolerance
from sweeps.tracking import stores
from sweeps.tracking.failures import answering
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import Registry
from trainables.inputs import paths
from trainables.scoring import Form
from trainables.scoring.requests import ExportRequest, ExportResult, Sample
from trainables.specs import DataSpec, ModelSpec, QuantizationSpec, TrialSpec


@dataclass(frozen=True)
class Exported:
    """An export, and its score on the serving rows of the version's decision record."""

    model: str
    version: str
    form: Form
    note: str
    """What to know of the form in words, such as "on the nf4 base, dequantised" of a merged model; may be empty."""
    folder: Path
    rows: str
    """The scored rows in words, such as "the first 32 of 80 rows that decided (data.test)"."""
    loss: float
    promoted_loss: float
    difference: float
    """Sum of the rows' absolute differences per token, in nats; as `Agreement.difference`."""
    tolerance: float

    @property
    def holds(self) -> bool:
        """Tells whether the export scores as the promoted version did."""
        return self.difference <= self.tolerance

    @property
    def in_words(self) -> str:
        """Formats the losses for people, in one line."""
        is_near = "within" if self.holds else "not within"
        note = f" {self.note}" if self.note else ""
        return (
            f"{self.model} version {self.version} as {self.form}{note}: on {self.rows} loss {self.loss:.4f}, promoted "
            f"with {self.promoted_loss:.4f}; rows differ by {self.difference:.2g} a token, {is_near} {self.tolerance:g}"
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the object for the JSON line."""
        return {**vars(self), "folder": str(self.folder), "holds": self.holds}


def export(  # noqa: PLR0913 - what a person asks for
    named: str,
    form: Form,
    out: Path,
    force: bool,
    tracking_uri: str | None,
    on_plain: bool = False,
    scored_by: Callable[[TrialSpec], AbstractContextManager[Scoring]] = scoring,
) -> Exported:
    """Writes a version to a folder that must not exist yet. Another process holds torch and does the work.

    Args:
        named: MODEL@ALIAS, or MODEL alone for the champion.
        force: keep an export that scores otherwise than the promoted version.
        on_plain: merge onto the base without quantisation, and not onto its weights in training.

    Raises:
        SweepError, ClusterError: there is no such version, its files or base are others, or `form` cannot hold it.
        Failed: the export scores otherwise and `force` is not set; nothing is kept.
    """
    if on_plain and "merged" not in form:
        raise SweepError(f"--base: plain goes with a merged model only, and the format is {form}: leave it out")
    out = paths.absolute(out)
    if out.exists() or not out.parent.is_dir():
        problem = "is there already" if out.exists() else f"cannot be made: {out.parent} is no folder"
        raise SweepError(f"--out: {out} {problem}: name a new folder in one that is there")
    uri = stores.store(tracking_uri)
    with answering(uri):
        registry, lookup = Registry(uri), Lookup(uri)
        model, version = versions.at(registry, named)
        record, files = check_serving.decision_of(lookup, model, version), versions.package(lookup, model, version)
    base, adapter = versions.base_in(files), versions.adapter_in(files)
    spec = spec_for(base, form, on_plain)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".qsweep-export-") as work:
        made = Path(work) / "made"
        made.mkdir()
        request = ExportRequest(
            form=form, folder=str(made), name=served_name(model, version.number), adapter=adapter,
            tokenizer=versions.tokenizer_in(files), base_files=base["files"], ends=tuple(base["ends"].values()),
            rows=tuple(Sample(columns={}, ids=row.ids, labelled=row.labelled) for row in record.serving_rows),
        )  # fmt: skip
        with scored_by(spec) as scored:
            told = scored.export(request)
        found = _compared(model, version.number, form, _note(spec, form, versions.has_dora(files)), out, record, told)
        if not found.holds and not force:
            raise Failed(f"{found.in_words}: nothing is kept; {_why(spec, base)}; --force keeps it all the same")
        made.rename(out)
    return found


def spec_for(base: dict[str, Any], form: Form, on_plain: bool = False) -> TrialSpec:
    """Returns the base for the export: as in training, or for a merged model of a plain base in 16 bits."""
    quantization = dict(base["quantization"])
    if "merged" in form and not on_plain and QuantizationSpec(**quantization).traits.is_quantised:
        quantization["residency"] = "dequantised"
    elif "merged" in form:
        dtype = "float16" if quantization["compute_dtype"] == "float16" else "bfloat16"
        quantization |= {"scheme": "none", "compute_dtype": dtype}
    return TrialSpec(
        model=ModelSpec(source=base["source"], revision=base["revision"], trust_remote_code=base["trust_remote_code"]),
        quantization=QuantizationSpec(**quantization),
        data=DataSpec(train="none", **base["form"]),  # its rows are in the record
    )


def _note(spec: TrialSpec, form: Form, is_dora: bool) -> str:
    if "merged" not in form:
        return "(DoRA, which vLLM and SGLang refuse: serve it merged)" if is_dora else ""
    how = spec.quantization
    return f"on the {how.scheme} base, dequantised" if how.traits.is_quantised else "on the base without quantisation"


def _compared(  # noqa: PLR0913 - the parts of the result
    model: str, version: str, form: Form, note: str, out: Path, record: DecisionRecord, told: ExportResult
) -> Exported:
    rows = [row.logprobs[PROMOTED] for row in record.serving_rows]
    promoted, tokens = [-sum(row) for row in rows], sum(map(len, rows))
    gaps = [abs(ours - theirs) for ours, theirs in zip(told.row_losses, promoted, strict=True)]
    allowed = tolerance(record.scores[record.winner].hardware, told.hardware)
    loss, promoted_loss = sum(told.row_losses) / tokens, sum(promoted) / tokens
    decided = len(record.scores[record.winner].row_losses)
    first = f"the first {len(rows)} of {decided} rows that decided ({record.rows.source})"
    return Exported(model, version, form, note, out, first, loss, promoted_loss, sum(gaps) / tokens, allowed)


def _why(spec: TrialSpec, base: dict[str, Any]) -> str:
    """Names the likely reason for an export that scores otherwise."""
    scheme = base["quantization"]["scheme"]
    if spec.quantization.scheme != scheme:
        return f"the adapter was trained on the base in {scheme}: without --base plain it is merged onto that"
    return "libraries or hardware are not those of the promotion"
