"""Checks a version from its decision record and its files alone, without torch. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sweeps.promotion import decision_record, gate, versions, words
from sweeps.promotion.decision_record import PROMOTED, DecisionRecord
from sweeps.promotion.versions import Found
from sweeps.tracking.model_package import RECORD
from sweeps.tracking.registry import IDENTITY
from trainables.contract import Evaluation
from trainables.scoring.requests import BASE, row_digest

_SAME = 1e-6
"""Relative tolerance. Sums of the same numbers differ by less between machines; a visible change is larger."""


@dataclass(frozen=True)
class Verified:
    """Result of one check."""

    name: str
    holds: bool | None
    """None if it cannot be told from here."""
    words: str
    """The finding, for people."""


def checks(found: Found) -> tuple[DecisionRecord, list[Verified]]:
    """Checks a version's record by itself and against its files. Raises `SweepError` if the record cannot be read."""
    record = decision_record.read_record(found.files[RECORD])
    whole = _of(RECORD, None if record.is_whole else "it is not as it was written: its sha256 differs", "as written")
    rows = _of(
        "rows",
        _odd_rows(record),
        f"{len(record.scores[BASE].row_losses)}, their values agree",
    )
    base, of = record.base, f"{record.rows.source} and {record.base.source}"
    unknown = [
        Verified(
            "base", None, f"{base.source}: its weights are not looked at; the packaged model does it when it loads"
        ),
        Verified("evaluation", None, f"whether {of} still give these values: qsweep promote evaluates them"),
    ]
    return record, [whole, _registered(record, found), _files(record, found.files), rows, _verdict(record), *unknown]


def _of(name: str, problem: str | None, words: str) -> Verified:
    return Verified(name, problem is None, problem or words)


def _registered(record: DecisionRecord, found: Found) -> Verified:
    if found.version is None:
        return Verified("registry", None, "a folder was given: whether the registry names this record is not known")
    ours = {
        versions.RECORD_DIGEST: record.sha256, IDENTITY: record.identity, "adapter_sha256": record.adapter_sha256,
        versions.DIGEST: versions.digest_of(found.files),
    }  # fmt: skip
    other = [tag for tag, value in ours.items() if found.version.tags.get(tag) != value]
    problem = f"its tag {other[0]} is of another record or of other files" if other else None
    return _of("registry", problem, "its tags name this record and these files")


def _files(record: DecisionRecord, files: Mapping[str, bytes]) -> Verified:
    here = decision_record.file_digests(files)
    # MLflow adds a file of its own beside artifacts/ to a folder that it fetches.
    checked = sorted({*record.files, *(path for path in here if path.startswith("artifacts/"))})
    wrong = [path for path in checked if here.get(path) != record.files.get(path)]
    how = [f"{path} {'is not the one that was promoted' if path in here else 'is gone'}" for path in wrong]
    return _of("files", ", ".join(how) or None, f"{', '.join(checked)}: sha256 as recorded")


def _odd_rows(record: DecisionRecord) -> str | None:
    """Says what is wrong with the rows and their values; None if nothing is."""
    try:
        return next(chain(_odd_values(record), _odd_serving_rows(record)), None)
    except (LookupError, ZeroDivisionError) as error:
        return f"they do not fit to each other: {error!r}"


def _odd_values(record: DecisionRecord) -> Iterator[str]:
    """Yields contradictions among the rows, their values and the metrics."""
    digests, count = record.rows.digests, len(record.scores[BASE].row_losses)
    if digests and len(digests) != count:
        yield f"there are {len(digests)} digests for {count} rows"
    for name, each in record.scores.items():
        if {len(each.row_losses), len(each.row_tokens)} != {count}:
            yield f"{name} has not one value for each of {count} rows"
        elif wrong := _wrong_metric(each):
            yield f"{name}: its {wrong} is not what its rows give"
    for guard in record.guarded:
        for name, each in guard.scores.items():
            if wrong := _wrong_metric(each):
                yield f"{guard.name}: {name}: its {wrong} is not what its rows give"


def _odd_serving_rows(record: DecisionRecord) -> Iterator[str]:
    """Yields contradictions between the serving rows and the scored rows."""
    digests, winner = record.rows.digests, record.winner
    for place, row in enumerate(record.serving_rows):
        if digests and row_digest(row.ids, row.labelled) != digests[place]:
            yield f"the tokens of row {place + 1} are not those that were scored"
        for ours, told in row.logprobs.items():
            loss = record.scores[winner if ours == PROMOTED else ours].row_losses[place]
            # Each log-probability was rounded to 6 decimals.
            if not math.isclose(-sum(told), loss, abs_tol=1e-6 * (len(told) + 1)):
                yield f"the log-probabilities of row {place + 1} ({ours}) do not add up to its loss"


def _wrong_metric(evaluation: Evaluation) -> str | None:
    for name, value in evaluation.metrics.items():
        rows = evaluation.rows_of(name)
        if rows is not None and not math.isclose(sum(rows.parts) / sum(rows.weights), value, rel_tol=_SAME):
            return name
    return None


def _verdict(record: DecisionRecord) -> Verified:
    """Asks the gate again, and compares its verdict with the recorded one but for warnings, which decide nothing."""
    if record.rule.method != gate.METHOD:
        return Verified(
            "verdict", None, "another version of qsweep decided, with other intervals: verify it with that one"
        )
    try:
        found = gate.decide(record.scores, record.rule, record.sliced, record.guarded)
    except (LookupError, ValueError, ZeroDivisionError) as error:
        return Verified("verdict", False, f"the gate cannot decide by these values: {error!r}")
    told = {name: value for name, value in record.verdict.items() if name != "warnings"}
    if not _is_same(told, json.loads(json.dumps(words.as_json(found)))):
        return Verified("verdict", False, "the gate's rule does not give it from the values per row")
    return _of(
        "verdict", None if found.passed else "the gate says no", f"{found.winner} passes, from the values per row"
    )


def _is_same(told: Any, found: Any) -> bool:
    """Tells whether two JSON values are the same; keys that a later version of qsweep adds do not count."""
    if isinstance(told, dict) and isinstance(found, dict):
        return all(name in found and _is_same(value, found[name]) for name, value in told.items())
    if isinstance(told, list) and isinstance(found, list):
        return len(told) == len(found) and all(map(_is_same, told, found))
    if isinstance(told, float) and isinstance(found, float):
        return math.isclose(told, found, rel_tol=_SAME, abs_tol=1e-9)
    return bool(told == found)
