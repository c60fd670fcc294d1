"""The decision record: one JSON file, `decision.json`, that says of a version why it was promoted, and of what it is.

`of` writes one down, `read` reads one, and `verify` checks one. Without MLflow and torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from sweeps.config.passwords import without_passwords
from sweeps.errors import Failed, SweepError
from sweeps.promotion.gate import CHAMPION, Guarded, Sliced
from sweeps.tracking import model_package
from sweeps.tracking.model_package import RECORD
from trainables.contract import Evaluation
from trainables.inputs import json_text
from trainables.objective import Objective
from trainables.scoring.requests import BASE
from trainables.specs import Spec

if TYPE_CHECKING:
    from sweeps.promotion.cards import VersionFacts
    from sweeps.promotion.evidence import Contender
    from sweeps.promotion.request import Context
    from trainables.scoring.requests import ScoringResult

PROMOTED = "promoted"
"""The name of the promoted adapter in `ServingRow.logprobs`."""
RECORDED = "artifacts/"
"""Where the files of a package are whose digests a record holds: adapter, tokenizer with its template, base.json."""
_Words = Annotated[tuple[str, ...], Field(strict=False)]
_Numbers = Annotated[tuple[int, ...], Field(strict=False)]
_Values = Annotated[tuple[float, ...], Field(strict=False)]


class Rule(Spec):
    """What the gate asked."""

    objective: Objective
    """The metric that decided."""
    min_gain: float
    """In the metric's unit."""
    candidates: _Words
    """The adapters among which the winner was the best."""


class DecidingRows(Spec):
    """The rows that decided."""

    source: str
    """Where they come from, in words."""
    fingerprint: str
    """As `ScoringResult.fingerprint`."""
    digests: _Words
    """As `ScoringResult.row_digests`."""


class Origin(Spec):
    """The sweep and the trial that the adapter comes from."""

    sweep_id: str
    trial_key: str
    run_id: str
    """The trial's run in MLflow."""
    data_fingerprint: str | None
    """Identifies the tokens that the sweep trained on."""
    fingerprints: dict[str, str]
    """Identify the base and the data files that the sweep began with."""


class Base(Spec):
    """The base that all were evaluated on; see `BaseFacts` for what has no words here."""

    source: str
    revision: str | None
    kind: str
    files: dict[str, str]
    quantization: dict[str, Any]
    identity: str
    """Base and quantisation, as the version's tag base.identity."""


class ServingRow(Spec):
    """One of the first rows that decided, to ask a server for."""

    ids: _Numbers
    labelled: _Numbers
    """Positions of the tokens that count in the loss."""
    logprobs: dict[str, _Values]
    """`PROMOTED`, the labels of other candidates, BASE, and CHAMPION where there was one -> log-probability of each
    labelled token, in nats."""


class Decision(Spec):
    """The decision record of a version; of its last promotion, where there were several."""

    format: Literal[1] = 1
    time: float
    """When the gate had decided, in seconds since the epoch."""
    model: str
    """The registered model's name."""
    alias: str
    """The alias that was to move."""
    identity: str
    """As the version's tag promotion.identity."""
    origin: Origin
    rule: Rule
    rows: DecidingRows
    scores: dict[str, Evaluation]
    """A candidate, BASE or CHAMPION -> its evaluation on the rows, row by row."""
    sliced: Sliced | None
    """How the rows are divided into slices; None where they are not."""
    guarded: Annotated[tuple[Guarded, ...], Field(strict=False)]
    """The evaluations under each guard."""
    verdict: dict[str, Any]
    """As `Verdict.as_json`."""
    forced: _Words
    """The objections that --force overrode."""
    champion: str | None
    """The version that it was compared with; None where there was no champion, or none that could be compared with."""
    champion_sha256: str | None
    """As `adapter_sha256`, of that version."""
    adapter_sha256: str
    """As the version's tag adapter_sha256."""
    files: dict[str, str]
    """File of the package below `RECORDED` -> its SHA-256."""
    base: Base
    versions: dict[str, str]
    """Package -> its version."""
    serving_rows: Annotated[tuple[ServingRow, ...], Field(strict=False)]
    sha256: str = ""
    """Over all other fields; also the version's tag `versions.RECORD_DIGEST`."""

    @property
    def winner(self) -> str:
        """The promoted adapter's name in `scores`."""
        return str(self.verdict["winner"])

    @property
    def is_whole(self) -> bool:
        """Whether it still is what was written."""
        return self.sha256 == self.digest()

    def digest(self) -> str:
        """The `sha256` of what is here."""
        return hashlib.sha256(json.dumps(self._document(), sort_keys=True).encode()).hexdigest()

    def _document(self) -> dict[str, Any]:
        texts = {"__all__": {"answers"}}
        left_out: dict[str, Any] = {"sha256": True, "scores": texts, "guarded": {"__all__": {"scores": texts}}}
        return self.model_dump(mode="json", exclude=left_out)

    def content(self) -> bytes:
        """The file."""
        return json.dumps({**self._document(), "sha256": self.sha256}).encode()


def of(context: Context, winner: Contender, facts: VersionFacts, files: Mapping[str, bytes], time: float) -> Decision:
    """The record of a promotion that the gate has let pass.

    Args:
        files: of the version's package.
        time: in seconds since the epoch.
    """
    evidence, candidate, sweep = winner.evidence, winner.candidate, context.sweep
    answer, labels = evidence.answer, tuple(each.label for each in evidence.candidates)
    champion = winner.champion if CHAMPION in answer.scores else None
    base = facts.base.model_dump(include={"source", "revision", "kind", "files", "quantization"})
    found = Decision(
        time=time,
        model=context.model,
        alias=context.alias,
        identity=candidate.identity,
        origin=Origin(
            sweep_id=sweep.sweep_id, trial_key=candidate.trial.trial_key, run_id=candidate.trial.run_id,
            data_fingerprint=sweep.data_fingerprint, fingerprints=dict(sweep.fingerprints),
        ),
        rule=Rule(objective=winner.verdict.objective, min_gain=winner.verdict.min_gain, candidates=labels),
        rows=DecidingRows(source=evidence.rows, fingerprint=answer.fingerprint, digests=answer.row_digests),
        scores={name: answer.scores[name] for name in (*labels, BASE, CHAMPION) if name in answer.scores},
        sliced=winner.sliced,
        guarded=winner.guarded,
        verdict=winner.verdict.as_json(),
        forced=tuple(facts.forced),
        champion=None if champion is None else champion.number,
        champion_sha256=None if champion is None else champion.tags["adapter_sha256"],
        adapter_sha256=candidate.adapter_sha256,
        files=file_digests(files),
        base=Base(**base, identity=evidence.base_identity),
        versions=dict(model_package.versions(facts.base)) | {"qlora-sweeps": version("qlora-sweeps")},
        serving_rows=_serving_rows(answer, candidate.label, labels),
    )  # fmt: skip
    shown = read(without_passwords(found.content().decode()).encode())
    return shown.model_copy(update={"sha256": shown.digest()})


def _serving_rows(answer: ScoringResult, winner: str, candidates: Sequence[str]) -> tuple[ServingRow, ...]:
    """The first rows with their log-probabilities."""
    if winner not in answer.logprobs:  # a scorer of somebody's own need not tell them
        return ()
    names = [name for name in (winner, *candidates, BASE, CHAMPION) if name in answer.logprobs]
    told = {PROMOTED if name == winner else name: answer.logprobs[name] for name in names}
    return tuple(
        ServingRow(
            ids=sample.ids, labelled=sample.labelled, logprobs={ours: rows[place] for ours, rows in told.items()}
        )
        for place, sample in enumerate(answer.samples)
    )


def read(content: bytes) -> Decision:
    """Reads a record; see also `Decision.is_whole`.

    Raises:
        SweepError: it is of another format.
        Failed: it cannot be read.
    """
    try:
        raw = json_text.parse(content)
        if isinstance(raw, dict) and raw.get("format") != 1:
            raise SweepError(f"{RECORD}: format {raw.get('format')!r} is not 1: another version of qsweep wrote it")
        record = Decision.model_validate_json(content)
        if not {BASE, record.verdict.get("winner"), *record.rule.candidates} <= record.scores.keys():
            raise ValueError("scores")
        return record
    except (ValidationError, ValueError, TypeError) as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else str(error)
        raise Failed(f"{RECORD}: is damaged, or not a decision record of qsweep ({where})") from None


def file_digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """The `Decision.files` of a package's files."""
    recorded = {name: content for name, content in files.items() if name.startswith(RECORDED)}
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(recorded.items())}
