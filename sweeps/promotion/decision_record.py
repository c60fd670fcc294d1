"""Defines the decision record, `decision.json`: why a version was promoted, and what it was made of.

`make` makes a record, `read_record` reads one, and `sweeps.promotion.verify` checks one. They need neither MLflow nor
torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from sweeps.config.model import RefitOf
from sweeps.config.passwords import hidden
from sweeps.errors import Failed, SweepError
from sweeps.promotion import words
from sweeps.promotion.gate import CHAMPION, GateRule, Guarded, Sliced
from sweeps.tracking import model_package
from sweeps.tracking.model_package import RECORD
from trainables.contract import Evaluation
from trainables.inputs import json_text
from trainables.inputs.installed import version
from trainables.scoring.requests import BASE
from trainables.specs import Spec

if TYPE_CHECKING:
    from sweeps.promotion.cards import VersionFacts
    from trainables.scoring.requests import ScoringResult

PROMOTED = "promoted"
"""Name of the promoted adapter in `ServingRow.logprobs`."""
_Words = Annotated[tuple[str, ...], Field(strict=False)]
_Numbers = Annotated[tuple[int, ...], Field(strict=False)]
_Values = Annotated[tuple[float, ...], Field(strict=False)]


class DecidingRows(Spec):
    """The rows that decided."""

    source: str
    """Source of the rows, in words."""
    fingerprint: str
    """As `ScoringResult.fingerprint`."""
    digests: _Words
    """As `ScoringResult.row_digests`."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """As `ScoringResult.left_out`."""


class AdapterOrigin(Spec):
    """Sweep and trial of the adapter."""

    sweep_id: str
    trial_key: str
    run_id: str
    """The trial's run in MLflow."""
    data_fingerprint: str | None
    """Identifies the tokens that the sweep trained on."""
    fingerprints: dict[str, str]
    """Identify the base and the data files with which the sweep began."""
    refit_of: RefitOf | None = None
    """The trial that this one trained anew, of an earlier sweep."""


class RecordedBase(Spec):
    """The base of all evaluations. Fields other than `identity` are as in `BaseFacts`."""

    source: str
    revision: str | None
    kind: str
    files: dict[str, str]
    quantization: dict[str, Any]
    identity: str
    """Identifies base and quantisation, as the version's tag base.identity."""


class ServingRow(Spec):
    """One of the first deciding rows, to ask a server for."""

    ids: _Numbers
    labelled: _Numbers
    """Positions of the tokens that count in the loss."""
    logprobs: dict[str, _Values]
    """Model -> log-probability of each labelled token, in nats. The models are `PROMOTED`, the labels of other
    candidates, BASE, and CHAMPION if there was one."""


class DecisionRecord(Spec):
    """The decision record of a version's last promotion."""

    format: Literal[1] = 1
    time: float
    """When the record was made, in seconds since the epoch."""
    model: str
    alias: str
    """The alias that was to move."""
    identity: str
    """As the version's tag promotion.identity."""
    origin: AdapterOrigin
    rule: GateRule
    rows: DecidingRows
    scores: dict[str, Evaluation]
    """Label of a candidate, BASE or CHAMPION -> its evaluation on the deciding rows, row by row."""
    sliced: Sliced | None
    """Division of the rows into slices; None without slices."""
    guarded: Annotated[tuple[Guarded, ...], Field(strict=False)]
    verdict: dict[str, Any]
    """As `words.as_json`."""
    forced: _Words
    """The objections that --force overrode."""
    champion: str | None
    """Version that the winner was compared with; None if there was no champion that could be compared with."""
    champion_sha256: str | None
    """The champion's `adapter_sha256`."""
    adapter_sha256: str
    """As the version's tag adapter_sha256."""
    files: dict[str, str]
    """File of the package, but this record -> its SHA-256."""
    base: RecordedBase
    versions: dict[str, str]
    """Python package -> its version."""
    serving_rows: Annotated[tuple[ServingRow, ...], Field(strict=False)]
    sha256: str = ""
    """Digest of all other fields as written; also the version's tag `versions.RECORD_DIGEST`."""

    @property
    def winner(self) -> str:
        """Returns the promoted adapter's name in `scores`."""
        return str(self.verdict["winner"])

    @property
    def is_whole(self) -> bool:
        """Tells whether the record is unchanged since it was written."""
        return self.sha256 == self.digest()

    def digest(self) -> str:
        """Returns the `sha256` of the present fields."""
        return hashlib.sha256(json.dumps(self._document(), sort_keys=True).encode()).hexdigest()

    def _document(self) -> dict[str, Any]:
        texts = {"__all__": {"answers"}}
        # Without a refit as before there were refits: digests stay.
        unset = {"origin": {"refit_of"}} if self.origin.refit_of is None else {}
        left_out: dict[str, Any] = unset | {"sha256": True, "scores": texts, "guarded": {"__all__": {"scores": texts}}}
        return self.model_dump(mode="json", exclude=left_out)

    def content(self) -> bytes:
        """Returns the content of decision.json."""
        return json.dumps({**self._document(), "sha256": self.sha256}).encode()


def make(facts: VersionFacts, files: Mapping[str, bytes], time: float) -> DecisionRecord:
    """Makes the record of a promotion that the gate has passed; `files` are those of the version's package."""
    winner, sweep = facts.winner, facts.context.sweep
    evidence, candidate = winner.evidence, winner.candidate
    answer, labels = evidence.answer, tuple(each.label for each in evidence.candidates)
    champion = evidence.champion if CHAMPION in answer.scores else None
    base = facts.base.model_dump(include={"source", "revision", "kind", "files", "quantization"})
    found = DecisionRecord(
        time=time,
        model=facts.context.model,
        alias=facts.context.alias,
        identity=candidate.identity,
        origin=AdapterOrigin(
            sweep_id=sweep.sweep_id, trial_key=candidate.trial.trial_key, run_id=candidate.trial.run_id,
            data_fingerprint=sweep.data_fingerprint, fingerprints=dict(sweep.fingerprints),
            refit_of=sweep.config.refit_of,
        ),
        rule=evidence.rule,
        rows=DecidingRows(
            source=evidence.rows, fingerprint=answer.fingerprint, digests=answer.row_digests, left_out=answer.left_out
        ),
        scores={name: answer.scores[name] for name in (*labels, BASE, CHAMPION) if name in answer.scores},
        sliced=evidence.sliced,
        guarded=evidence.guarded,
        verdict=words.as_json(winner.verdict),
        forced=tuple(facts.forced),
        champion=None if champion is None else champion.number,
        champion_sha256=None if champion is None else champion.tags["adapter_sha256"],
        adapter_sha256=candidate.adapter_sha256,
        files=file_digests(files),
        base=RecordedBase(**base, identity=evidence.base_identity),
        versions=dict(model_package.versions(facts.base)) | {"qlora-sweeps": version("qlora-sweeps")},
        serving_rows=_serving_rows(answer, candidate.label, labels),
    )  # fmt: skip
    shown = read_record(hidden(found.content().decode()).encode())
    return shown.model_copy(update={"sha256": shown.digest()})


def _serving_rows(answer: ScoringResult, winner: str, candidates: Sequence[str]) -> tuple[ServingRow, ...]:
    if winner not in answer.logprobs:  # a user's own scorer need not return them
        return ()
    names = [name for name in (winner, *candidates, BASE, CHAMPION) if name in answer.logprobs]
    told = {PROMOTED if name == winner else name: answer.logprobs[name] for name in names}
    return tuple(
        ServingRow(
            ids=sample.ids, labelled=sample.labelled, logprobs={ours: rows[place] for ours, rows in told.items()}
        )
        for place, sample in enumerate(answer.samples)
    )


def read_record(content: bytes) -> DecisionRecord:
    """Reads a record; `is_whole` is not checked. Raises `SweepError` for another format, `Failed` if it is damaged."""
    try:
        raw = json_text.parse(content)
        if isinstance(raw, dict) and raw.get("format") != 1:
            raise SweepError(f"{RECORD}: format {raw.get('format')!r} is not 1: another version of qsweep wrote it")
        record = DecisionRecord.model_validate_json(content)
        if not {BASE, record.verdict.get("winner"), *record.rule.candidates} <= record.scores.keys():
            raise ValueError("scores")
        return record
    except (ValidationError, ValueError, TypeError) as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else str(error)
        raise Failed(f"{RECORD}: is damaged, or not a decision record of qsweep ({where})") from None


def file_digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Returns the `DecisionRecord.files` of a package's files."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items()) if name != RECORD}
