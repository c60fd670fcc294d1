"""Answers a sweep that searches its base: the best trial of each base against the best of all, and what each takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from sweeps.config.number_words import size
from sweeps.record.run_names import label
from sweeps.record.selection import ranking
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from trainables.specs import short_names


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


def found(record: SweepRecord) -> list[OfBase]:
    """Returns the bases, that of the best trial first; empty if all trials are on one base."""
    if len(record.bases) < 2:
        return []
    groups: dict[str, list[TrialRecord]] = {}
    ranked = ranking(record)
    for trial in (*ranked, *record.trials.values()):
        if trial.spec and trial not in groups.setdefault(trial.base_name, []):
            groups[trial.base_name].append(trial)
    names, may_win = short_names([*groups]), {trial.trial_key for trial in ranked}
    return [
        OfBase(
            names[base],
            own[0] if own[0].trial_key in may_win else None,
            len(own),
            median([each.seconds / each.step for each in own if each.step and each.seconds] or [math.nan]),
            max(each.peak_memory_bytes for each in own),
        )
        for base, own in groups.items()
    ]


def lines(bases: Sequence[OfBase], verdicts: Mapping[str, str]) -> list[str]:
    """Returns a line for each base; `verdicts`: trial key -> how the best trial compares with this trial, in words."""
    told = []
    first = bases[0] if bases else None
    for each in bases:
        if each.best is None:
            told.append(f"{each.name}: none of its {each.trials} trials may be the best; {_takes(each, first)}")
            continue
        verdict = verdicts.get(each.best.trial_key, f"{label(each.best.number)} is the best of all")
        told.append(f"{each.name}: {verdict}; {_takes(each, first)}")
    return told


def _takes(base: OfBase, first: OfBase | None) -> str:
    parts = []
    if math.isfinite(base.step_seconds):
        parts.append(f"{base.step_seconds:.3g} s a step{_times(base.step_seconds, first and first.step_seconds)}")
    if base.memory_bytes:
        parts.append(f"{size(base.memory_bytes)} a host{_times(base.memory_bytes, first and first.memory_bytes)}")
    return ", ".join(parts)


def _times(value: float, of_first: float | None) -> str:
    if not of_first or not math.isfinite(of_first) or value == of_first:
        return ""
    return f" ({value / of_first:.2g} times)"
