"""Tells what a running server serves: what was promoted, the base, another adapter, or that it cannot be told.

A version's decision record holds rows as tokens, and the log-probabilities that promotion computed for them with each
candidate and with the base. The server is asked for its own. It computes in another type, on another device and perhaps
on a base of another quantisation, so its numbers are never equal: it serves the recorded model that is nearest by a
clear margin (`nearest`). How near that must be tells the server's base, which is asked the same (`allowed`).
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
from sweeps.promotion.decision_record import PROMOTED, Decision
from sweeps.promotion.gate import CHAMPION
from sweeps.promotion.openai_client import Server
from sweeps.statistics.intervals import confidence_of, intervals
from sweeps.tracking import stores
from sweeps.tracking.failures import answering
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.model_package import RECORD
from sweeps.tracking.registry import IDENTITY, Registry, Version
from trainables.inputs.legible import legible
from trainables.scoring.requests import BASE

ROUNDED, QUANTISED = 0.1, 1.0
"""See `allowed`."""
CLEAR, CLEAR_OF_ADAPTERS = 4.0, 2.0
"""See `nearest`."""
LogProbabilities = Sequence[Sequence[float]]
"""Of each row, those of its labelled tokens, in nats."""


@dataclass(frozen=True)
class Likeness:
    """How far a server is from each recorded model."""

    differences: Mapping[str, float]
    """Name of a recorded model -> its mean absolute difference per token to the server, in nats; the nearest first."""
    unclear: str
    """Why the nearest is not told to be what is served; empty when it is."""

    @property
    def served(self) -> str | None:
        """The recorded model that is served; None when that cannot be told."""
        return None if self.unclear else next(iter(self.differences))


def nearest(served: LogProbabilities, recorded: Mapping[str, LogProbabilities], most: float) -> Likeness:
    """Tells which recorded model a server answers with. Pure.

    It is the nearest one, when it is clearly so. It must be near, and the base at least `CLEAR` times as far: an
    adapter of which the server applies between a fifth and four fifths is neither, as where it divides alpha by r and
    not by its root (a quarter for r 16). Between two adapters it is `CLEAR_OF_ADAPTERS`: served without the
    quantisation of training, the quickstart's adapter was 0.17 from its record and 0.45 from that of the next trial,
    and a trial of which there was no record 0.62 from the nearest and 0.81 from the next. And the rows must agree:
    the interval over rows of the difference between the two distances, paired by row, lies above zero, with 99%
    confidence for all pairs at once.

    Args:
        served: what the server answered, NaN where it did not.
        recorded: name of a model -> what was recorded of it on the same rows.
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
    """The sum of each row's absolute differences."""
    pairs = zip(served, recorded, strict=True)
    return np.array([np.nansum(np.abs(np.subtract(ours, theirs))) for ours, theirs in pairs])


def allowed(record: Decision, rounding: float | None, is_quantised: bool = False) -> float:
    """The largest mean absolute difference per token, in nats, between what is served and its record.

    A server does not say in which type it computes, and a base that was quantised in training is often served without.
    Twice what the server's base differs by, and 0.01 where that is next to nothing. Where the base cannot be asked:
    SmolLM2-135M without an adapter, on the quickstart's rows (4.4 nats a token), differs from itself in float32 by 0.05
    in bfloat16 and by 0.72 in nf4, on a CPU; other models were not measured. llama.cpp's server has no base to ask.

    Args:
        rounding: as `Served.rounding`.
        is_quantised: whether the server's base is.
    """
    if rounding is not None:
        return 2 * rounding + 0.01
    return QUANTISED if is_quantised or record.base.quantization["scheme"] != "none" else ROUNDED


# A version, and what a server answers


def decision_of(lookup: Lookup, model: str, version: Version) -> Decision:
    """A version's decision record. Raises `SweepError` when it has none, another one than was written, or no rows."""
    path = f"{versions.package_path(model, version.tags[IDENTITY])}/{RECORD}"
    record = decision_record.read(lookup.file(version.run_id, path))
    if not record.is_whole or record.sha256 != version.tags.get(versions.RECORD_DIGEST):
        raise SweepError(f"{model}: the decision record of version {version.number} is not the one that was written")
    if not any(row.labelled for row in record.serving_rows):
        raise SweepError(f"{model}: the decision record of version {version.number} holds no rows to compare by")
    return record


@dataclass(frozen=True)
class Served:
    """What a server was found to serve."""

    model: str
    version: str
    """The version that it was to serve."""
    name: str
    """The served name that was asked."""
    rows: int
    likeness: Likeness
    """To `PROMOTED`, `BASE`, other versions of the model by their numbers, and other candidates by their labels."""
    rounding: float | None
    """How far the server's base is from the recorded one, as `Likeness.differences`; None where it cannot be asked."""

    @property
    def verdict(self) -> str:
        """promoted, base, other_version, other_candidate or unknown."""
        served = self.likeness.served
        if served is None or served in (PROMOTED, BASE):
            return served or "unknown"
        return "other_version" if served.isdigit() else "other_candidate"

    @property
    def exit_code(self) -> int:
        """0 when what is served is what was promoted."""
        return 0 if self.verdict == PROMOTED else 1

    @property
    def in_words(self) -> str:
        """The verdict for people, in a line."""
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
        return f"{legible(self.name)} {told}{why} (nats a token on {self.rows} rows: {far})"

    def as_json(self) -> dict[str, Any]:
        """The line that --json prints."""
        served = self.likeness.served
        versions_of = {PROMOTED: self.version, "other_version": served}
        return {
            "model": self.model,
            "version": self.version,
            "served_name": self.name,
            "verdict": self.verdict,
            "served_version": versions_of.get(self.verdict),
            "served_trial": served if self.verdict == "other_candidate" else None,
            "unclear": self.likeness.unclear,
            "rows": self.rows,
            "rounding": self.rounding,
            "differences": dict(self.likeness.differences),
        }


def check(named: str, server: Server, name: str | None, tracking_uri: str | None) -> Served:
    """Asks a server for the rows of a version's record.

    Args:
        named: the model and, after an @, the alias; the champion without.
        name: the adapter's name on the server; None for that of the version.

    Raises:
        SweepError: there is no such version, it has no record, or the server does not answer.
    """
    uri = stores.store(tracking_uri)
    with answering(uri):
        registry, lookup = Registry(uri), Lookup(uri)
        model, version = versions.at(registry, named)
        record = decision_of(lookup, model, version)
        others = {}
        for known in registry.versions(model):
            if known.is_complete and known.number != version.number:
                with suppress(SweepError):  # one that has no record, or has lost it, cannot be compared with
                    others[known.number] = decision_of(lookup, model, known)
    name = name or served_name(model, version.number)
    server.check_name(name)
    rounding = _rounding(server, name, record)
    likeness = _likeness(server, name, record, others, rounding)
    return Served(model, version.number, name, len(record.serving_rows), likeness, rounding)


def _rounding(server: Server, name: str, record: Decision) -> float | None:
    """As `Served.rounding`: also None where what the server lists beside `name` is not the recorded base."""
    base = server.base_of(name)
    with suppress(SweepError):  # it lists a base, and refuses its rows
        found = None if base is None else _likeness(server, base, record, {}, None)
        if found is not None and found.served == BASE:
            return found.differences[BASE]
    return None


def _likeness(
    server: Server, name: str, record: Decision, others: Mapping[str, Decision], rounding: float | None
) -> Likeness:
    answers = [server.log_probabilities(name, row.ids, row.labelled) for row in record.serving_rows]
    return nearest(answers, recorded(record, others), allowed(record, rounding, server.is_quantised))


def recorded(record: Decision, others: Mapping[str, Decision]) -> dict[str, LogProbabilities]:
    """What is recorded on the serving rows of a record: its own models, and other versions with the same rows.

    A candidate that is one of the versions, with the same numbers, is not there twice.

    Args:
        others: number of a version -> its record.
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
