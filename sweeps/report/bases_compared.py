"""Answers a sweep that searches its base: the best trial of each base against the best of all, and what each takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from statistics import median
from typing import Any, NamedTuple

from sweeps.config.number_words import counted, size
from sweeps.record.run_names import label
from sweeps.record.selection import ranking
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from trainables import catalogue
from trainables.errors import TrainableError
from trainables.specs import TrialSpec, short_names


class OfBase(NamedTuple):
    """A base of a sweep, as its trials found it."""

    name: str
    """`short_names` of the base."""
    best: TrialRecord | None
    """None if no trial on it may be the best."""
    trials: int
    step_seconds: float
    """Median over its trials of the seconds of a step, which all trials of a host share; NaN if unknown."""
    memory_bytes: int
    """Most memory of a host that held it; 0 if unknown."""
    served_bytes: int | None
    """Estimated bytes of its weights on a server; None if unknown."""


def found(record: SweepRecord, specs: Sequence[TrialSpec]) -> list[OfBase]:
    """Returns what is known of the bases of these specs, that of the best trial first."""
    groups: dict[str, list[TrialRecord]] = {}
    ranked = ranking(record)
    may_win = {trial.trial_key for trial in ranked}
    for trial in (*ranked, *(each for key, each in record.trials.items() if key not in may_win)):
        if trial.spec:
            groups.setdefault(trial.base_name, []).append(trial)
    known = {spec.base_name: spec for spec in specs}
    names = short_names({*groups, *known})
    return [
        OfBase(
            names[base],
            next((each for each in own if each.trial_key in may_win), None),
            len(own),
            median([each.seconds / each.step for each in own if each.step and each.seconds] or [math.nan]),
            max((each.peak_memory_bytes for each in own), default=0),
            None if base not in known else _served_bytes(known[base]),
        )
        for base, own in {**groups, **{base: [] for base in known if base not in groups}}.items()
    ]


def as_json(bases: Sequence[OfBase]) -> list[dict[str, Any]]:
    """Returns the bases for the JSON line: names, the key of the best trial, and what a step and a server take."""
    return [
        {
            **each._asdict(),
            "best": each.best and each.best.trial_key,
            "step_seconds": each.step_seconds if math.isfinite(each.step_seconds) else None,
        }
        for each in bases
    ]


def _served_bytes(spec: TrialSpec) -> int | None:
    if catalogue.is_own(spec.trainable) or not catalogue.has_adapters(spec.trainable):
        return None
    with suppress(TrainableError, OSError):  # the model may be on another machine
        trainable: Any = catalogue.find(spec.trainable)
        found: int | None = trainable.weight_bytes(spec)
        return found
    return None


def lines(bases: Sequence[OfBase], verdicts: Mapping[str, str]) -> list[str]:
    """Returns a line for each base; `verdicts`: trial key -> how the best trial compares with this trial, in words."""
    told = []
    for each in bases:
        if each.best is not None:
            verdict = verdicts.get(each.best.trial_key, f"{label(each.best.number)} is the best of all")
        elif each.trials:
            verdict = f"none of its {counted(each.trials, 'trial')} may be the best"
        else:
            verdict = "no trial was on it"
        told.append("; ".join([f"{each.name}: {verdict}", *_takes(each, bases[0])]))
    return told


def _takes(base: OfBase, first: OfBase) -> list[str]:
    """Says what a step, a host and a server take, and how many times that of the first base."""
    parts = []
    if math.isfinite(base.step_seconds):
        parts.append(f"{base.step_seconds:.3g} s a step{_times(base.step_seconds, first.step_seconds)}")
    if base.memory_bytes:
        parts.append(f"{size(base.memory_bytes)} a host{_times(base.memory_bytes, first.memory_bytes)}")
    if base.served_bytes:
        parts.append(f"{size(base.served_bytes)} of weights on a server{_times(base.served_bytes, first.served_bytes)}")
    return [", ".join(parts)] if parts else []


def _times(value: float, of_first: float | None) -> str:
    if not of_first or not math.isfinite(of_first) or f"{value / of_first:.2g}" == "1":
        return ""
    return f" ({value / of_first:.2g} times)"
