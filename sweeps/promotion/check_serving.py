"""Tells what a running server serves: the promoted adapter, the base, another adapter, or that it cannot be told.

A version's decision record holds rows as tokens, and the log-probabilities that promotion computed for these tokens
with each candidate and with the base. The server is asked for its own. The server computes in another type, on another
device and perhaps on a base of another quantisation, so its numbers are never equal. It serves the recorded model that
is nearest by a clear margin (`nearest`). The server's base is asked for the same rows, and shows how near is near
enough (`allowed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sweeps.errors import SweepError
from sweeps.promotion import decision_record, versions
from sweeps.promotion.cards import served_name
from sweeps.promotion.decision_record import PROMOTED, DecisionRecord
from sweeps.promotion.gate import CHAMPION
from sweeps.promotion.openai_client import Server
from sweeps.statistics.confidence import confidence_of
from sweeps.statistics.intervals import intervals
from sweeps.tracking import stores
from sweeps.tracking.failures import answering
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.model_package import RECORD
from sweeps.tracking.registry import IDENTITY, Registry, Version
from trainables.inputs.legible import legible
from trainables.quantization import SCHEMES
from trainables.scoring.requests import BASE

ROUNDED, QUANTISED = 0.1, 1.0
"""Limits in nats per token, if the server's base cannot be asked; see `allowed`."""
CLEAR, CLEAR_OF_ADAPTERS = 4.0, 2.0
"""Factors between the distances of two models, if one of them is the base, and between two adapters; see `nearest`."""
LogProbabilities = Sequence[Sequence[float]]
"""For each row, the log-probabilities of its labelled tokens, in nats."""


@dataclass(frozen=True)
class Likeness:
    """Distances of a server from the recorded models."""

    differences: Mapping[str, float]
    """Name of a recorded model -> mean absolute difference per token from the server, in nats; nearest first."""
    unclear: str
    """Why the nearest model cannot be called the served one; empty if it can."""

    @property
    def served(self) -> str | None:
        """Returns the name of the served model; None if it cannot be told."""
        return None if self.unclear else next(iter(self.differences))


def nearest(served: LogProbabilities, recorded: Mapping[str, LogProbabilities], most: float) -> Likeness:
    """Tells which recorded model a server answers with. Pure.

    The nearest model is the served one if it passes three tests:

    - Its distance is at most `most`.
    - Every other model is clearly farther. If one of the two is the base, the other is at least `CLEAR` times as far:
      an adapter of which the server applies between a fifth and four fifths is neither model, as on a server that
      divides alpha by r instead of its root (a quarter for r 16). Between two adapters the factor is
      `CLEAR_OF_ADAPTERS`. Served without the quantisation of training, the quickstart's adapter was 0.17 from its
      record and 0.45 from the record of the next trial. A trial without a record was 0.62 from the nearest record and
      0.81 from the next.
    - The rows agree: the interval over rows of the difference between the two distances, paired by row, lies above
      zero, with 99% confidence for all pairs at once.

    Args:
        served: the server's answers; NaN for tokens without an answer.
        recorded: name of a model -> its record on the same rows.
        most: the largest mean absolute difference per token, in nats, that rounding explains; see `allowed`.
    """
    told = [place for place, row in enumerate(served) if np.isfinite(row).any()]
    if not told:
        return Likeness({}, "the server tells no log-probabilities of these tokens")
    served = [served[place] for place in told]
    recorded = {name: [rows[place] for place in told] for name, rows in recorded.items()}
    tokens_R = [int(np.isfinite(row).sum()) for row in served]
    gaps_R = {name: _gaps(served, rows) for name, rows in recorded.items()}
    means = {name: float(gaps.sum()) / sum(tokens_R) for name, gaps in gaps_R.items()}
    means = dict(sorted(means.items(), key=lambda each: each[1]))
    first, *others = means
    if not means[first] <= most:
        return Likeness(means, f"the nearest is more than {most:.2g} nats a token away")
    confidence = confidence_of(max(1, len(others)))
    for other in others:
        times = CLEAR if BASE in (first, other) else CLEAR_OF_ADAPTERS
        (span,) = intervals([(gaps_R[other] - gaps_R[first]).tolist()], tokens_R, confidence)
        if means[other] < times * means[first] or not span.low > 0:
            return Likeness(means, f"another is not clearly farther than the nearest: {times:g} times, and by the rows")
    return Likeness(means, "")


def _gaps(served: LogProbabilities, recorded: LogProbabilities) -> npt.NDArray[np.float64]:
    pairs = zip(served, recorded, strict=True)
    return np.array([np.nansum(np.abs(np.subtract(ours, theirs))) for ours, theirs in pairs])


def allowed(record: DecisionRecord, rounding: float | None, is_quantised: bool = False) -> float:
    """Returns the largest mean absolute difference per token, in nats, of a served model from its record.

    A server does not say in which type it computes, and often serves without quantisation a base that was quantised in
    training. The limit is therefore twice the difference of the server's base, plus 0.01. If the base cannot be asked,
    as on llama.cpp's server, the limit is `ROUNDED` or `QUANTISED`. Both come from SmolLM2-135M without an adapter on
    the quickstart's rows (4.4 nats a token), on a CPU: in bfloat16 it differs from itself in float32 by 0.05, and in
    nf4 by 0.72. Other models were not measured.

    Args:
        rounding: as `Served.rounding`.
        is_quantised: whether the server says that its base is quantised.
    """
    if rounding is not None:
        return 2 * rounding + 0.01
    return QUANTISED if is_quantised or SCHEMES[record.base.quantization["scheme"]].is_quantised else ROUNDED


# A version, and what a server answers


def decision_of(lookup: Lookup, model: str, version: Version) -> DecisionRecord:
    """Returns a version's decision record. Raises `SweepError` if it is missing, was changed, or holds no rows."""
    path = f"{versions.package_path(model, version.tags[IDENTITY])}/{RECORD}"
    record = decision_record.read_record(lookup.file(version.run_id, path))
    if not record.is_whole or record.sha256 != version.tags.get(versions.RECORD_DIGEST):
        raise SweepError(f"{model}: the decision record of version {version.number} is not the one that was written")
    if not any(row.labelled for row in record.serving_rows):
        raise SweepError(f"{model}: the decision record of version {version.number} holds no rows to compare by")
    return record


@dataclass(frozen=True)
class Served:
    """Result of asking a server what it serves."""

    model: str
    version: str
    """The version that the server should serve."""
    name: str
    """The name on the server that was asked."""
    rows: int
    likeness: Likeness
    """Distances from `PROMOTED`, `BASE`, other versions by their numbers, and other candidates by their labels."""
    rounding: float | None
    """Distance of the server's base from the recorded base, in nats per token; None if it cannot be asked."""
    is_dora: bool = False
    """Whether the version has DoRA, looked up where the server does not serve what was promoted."""

    @property
    def verdict(self) -> str:
        """Returns promoted, base, other_version, other_candidate or unknown."""
        served = self.likeness.served
        if served is None or served in (PROMOTED, BASE):
            return served or "unknown"
        return "other_version" if served.isdigit() else "other_candidate"

    @property
    def exit_code(self) -> int:
        """Returns 0 if the server serves what was promoted, else 1."""
        return 0 if self.verdict == PROMOTED else 1

    @property
    def in_words(self) -> str:
        """Formats the verdict for people, in one line."""
        far = ", ".join(
            f"{f'version {name}' if name.isdigit() else name} {gap:.2g}"
            for name, gap in self.likeness.differences.items()
        )
        version, served = f"{self.model} version {self.version}", self.likeness.served
        told = {
            PROMOTED: f"is what was promoted, {version}",
            BASE: "is the base: no adapter is applied",
            "other_version": f"is not version {self.version} of {self.model} but version {served}",
            "other_candidate": f"is not {version} but another adapter: trial {served}, which was a candidate",
            "unknown": f"cannot be told to be {version}",
        }[self.verdict]
        why = f": {self.likeness.unclear}" if self.likeness.unclear else ""
        if self.rounding is not None:
            far += f"; its base {self.rounding:.2g} from the recorded one"
        if self.verdict == PROMOTED and (self.rounding is None or self.rounding > ROUNDED):
            # An adapter that is not recorded may be as near.
            told = f"is nearest to what was promoted, {version}, of the models that are recorded"
        if self.is_dora:
            why += ": the version has DoRA, which vLLM, SGLang and llama.cpp serve merged only: export --format merged"
        return f"{legible(self.name)} {told}{why} (nats a token on {self.rows} rows: {far})"

    def as_json(self) -> dict[str, Any]:
        """Returns the object for the JSON line."""
        verdict, served = self.verdict, self.likeness.served
        told = {name: value for name, value in vars(self).items() if name not in ("name", "likeness")}
        return told | vars(self.likeness) | {
            "served_name": self.name,
            "verdict": verdict,
            "served_version": {PROMOTED: self.version, "other_version": served}.get(verdict),
            "served_trial": served if verdict == "other_candidate" else None,
        }  # fmt: skip


def check_server(named: str, server: Server, name: str | None, tracking_uri: str | None) -> Served:
    """Asks a server for the rows of a version's record, and tells which model answers.

    Args:
        named: MODEL@ALIAS, or MODEL alone for the champion.
        name: the adapter's name on the server; None for the version's `served_name`.

    Raises:
        SweepError: there is no such version or no record of it, or the server does not answer or lacks the name.
    """
    uri = stores.store(tracking_uri)
    with answering(uri):
        registry, lookup = Registry(uri), Lookup(uri)
        model, version = versions.at(registry, named)
        record = decision_of(lookup, model, version)
        others = {}
        for known in reversed(registry.versions(model)):
            if known.is_complete and known.number != version.number:
                with suppress(SweepError):  # a version without a record cannot be compared with
                    others[known.number] = decision_of(lookup, model, known)
    name = name or served_name(model, version.number)
    server.check_name(name)
    rounding = _rounding(server, name, record)
    likeness = _likeness(server, name, record, others, rounding)
    is_dora = False
    if likeness.served != PROMOTED:
        with suppress(SweepError), answering(uri):
            is_dora = versions.has_dora(versions.package(lookup, model, version))
    return Served(model, version.number, name, len(record.serving_rows), likeness, rounding, is_dora)


def _rounding(server: Server, name: str, record: DecisionRecord) -> float | None:
    """Returns `Served.rounding`; None also if the server's other model is not the recorded base."""
    base = server.base_of(name)
    with suppress(SweepError):  # the server may list a base, and refuse its rows
        found = None if base is None else _likeness(server, base, record, {}, None)
        if found is not None and found.served == BASE:
            return found.differences[BASE]
    return None


def _likeness(
    server: Server, name: str, record: DecisionRecord, others: Mapping[str, DecisionRecord], rounding: float | None
) -> Likeness:
    answers = [server.log_probabilities(name, row.ids, row.labelled) for row in record.serving_rows]
    return nearest(answers, recorded(record, others), allowed(record, rounding, server.is_quantised))


def recorded(record: DecisionRecord, others: Mapping[str, DecisionRecord]) -> dict[str, LogProbabilities]:
    """Returns the log-probabilities that were recorded for a record's serving rows, by the name of the model.

    The models are the record's own, and those of `others` (number of a version -> its record) with the same rows.
    Leaves out a candidate with the numbers of a version.
    """
    rows = record.serving_rows
    asked = [(row.ids, row.labelled) for row in rows]
    found: dict[str, LogProbabilities] = {name: [row.logprobs[name] for row in rows] for name in (PROMOTED, BASE)}
    if record.champion is not None and CHAMPION in rows[0].logprobs:
        found[record.champion] = [row.logprobs[CHAMPION] for row in rows]
    for number, other in others.items():
        if [(row.ids, row.labelled) for row in other.serving_rows] == asked:
            found[number] = [row.logprobs[PROMOTED] for row in other.serving_rows]
    for name in rows[0].logprobs.keys() & {*record.rule.candidates}:
        theirs = [row.logprobs[name] for row in rows]
        if theirs not in found.values():
            found[name] = theirs
    return found
