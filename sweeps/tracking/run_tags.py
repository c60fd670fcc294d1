"""The tags of a sweep's runs in MLflow: what each is called, what it says, and when it is written. Pure.

A new tag is one more entry in the function of its moment: `sink.py` writes what these functions return.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sweeps.record.events import SweepEnded, SweepStarted, TrialStarted, TrialState
from sweeps.record.selection import Selection
from sweeps.record.separation import Separation
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report.trial_tables import ending, markdown

SWEEP_ID = "sweep.id"
"""Stands on the sweep's run and on each trial's, and on no other run."""
NAME = "sweep.name"
"""The sweep's name, on its own run; runs of earlier versions have it as their name in MLflow alone."""
TRIAL_KEY = "sweep.trial_key"
STATE = "sweep.state"
"""Of a trial its `TrialState`; of a sweep RUNNING, or the reason of its end."""
NUMBER = "sweep.number"
REPEATS = "sweep.repeats"
"""Key of the trial whose point this one trains again."""
BEST_TRIAL_KEY = "sweep.best_trial_key"
BEST_RUN = "sweep.best_run"
ADAPTER_SHA256 = "sweep.adapter_sha256"
"""Empty where the adapter was not uploaded."""
ADAPTER_REFUSED = "sweep.adapter_refused"
"""Why the adapter was not uploaded."""
EVAL_ROWS_SHA256 = "sweep.eval_rows_sha256"
DATA_FINGERPRINT = "data.fingerprint"
FINGERPRINT = "fingerprint."
"""What begins the names of tags that say what identifies the base and the data."""
PARENT_RUN = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
"""The text on a run's page, and the column Description."""
_RUNNING = "RUNNING: the best trial is named here when the sweep ends"
_SOURCE = {"mlflow.source.name": "qsweep"}
_PACKAGES = (
    "qlora-sweeps", "ray", "torch", "transformers", "peft", "bitsandbytes", "datasets", "mlflow-skinny", "accelerate"
)  # fmt: skip


OF_A_SWEEP = f"tags.`{SWEEP_ID}` LIKE '%' and tags.`{TRIAL_KEY}` IS NULL"
"""The condition of a search of MLflow's that a run is a sweep's own, and no trial's."""


def equals(name: str, value: str) -> str:
    """The condition of a search of MLflow's that a tag has a value."""
    return f"tags.`{name}` = '{value}'"


def identity(sweep_id: str, trial_key: str | None = None) -> dict[str, str]:
    """What a run is found by: the sweep's run, or a trial's."""
    return {SWEEP_ID: sweep_id} | ({} if trial_key is None else {TRIAL_KEY: trial_key})


def sweep_made(name: str) -> dict[str, str]:
    """Beside its identity, of the run of a sweep of this name when it is made."""
    return {**_SOURCE, NAME: name, "mlflow.runColor": "#5f6b7a"}


def sweep_started(event: SweepStarted) -> dict[str, str]:
    """Of the sweep's run when the sweep begins, or goes on: its note is no longer that of an earlier end."""
    prints = {FINGERPRINT + name: digest for name, digest in event.fingerprints.items()}
    return {STATE: "RUNNING", NOTE: _RUNNING, **prints, **_versions()}


def data_prepared(summary: Mapping[str, Any]) -> dict[str, str]:
    """Of the sweep's run when the data is ready."""
    return {DATA_FINGERPRINT: str(summary["fingerprint"])}


def sweep_ended(
    event: SweepEnded, record: SweepRecord, selection: Selection, separation: Separation | None, best_run: str | None
) -> dict[str, str]:
    """Of the sweep's run when the sweep ends; `best_run` is the run of the best trial."""
    tags = {STATE: str(event.reason), NOTE: markdown(record, selection, separation)}
    if selection.winner is not None:
        tags |= {BEST_TRIAL_KEY: selection.winner.trial_key, BEST_RUN: str(best_run)}
    return tags


def trial_made(parent_run: str) -> dict[str, str]:
    """Beside its identity, of a trial's run when it is made."""
    return {**_SOURCE, PARENT_RUN: parent_run}


def trial_started(event: TrialStarted, parent_run: str) -> dict[str, str]:
    """Of a trial's run when the trial begins, or goes on: the sweep may have another run since the trial's was made."""
    state = TrialState.RUNNING
    tags = {PARENT_RUN: parent_run, STATE: state, NUMBER: str(event.number), NOTE: state}
    return tags | ({} if event.repeats is None else {REPEATS: event.repeats})


def trial_waits_or_ended(trial: TrialRecord, metric: str) -> dict[str, str]:
    """Of a trial's run when the trial is parked or ends; `metric` is the objective's."""
    return {STATE: trial.state, NOTE: ending(trial, metric)}


def trial_lost() -> dict[str, str]:
    """Of a trial's run that the event log does not know: nobody ranks or promotes it."""
    note = "lost with its machine: the sweep that went on elsewhere has no such trial"
    return {STATE: TrialState.FAILED, NOTE: note}


def adapter_uploaded(adapter_sha256: str, eval_rows_sha256: str) -> dict[str, str]:
    """Of a trial's run when its adapter is among its artifacts."""
    return {ADAPTER_SHA256: adapter_sha256, EVAL_ROWS_SHA256: eval_rows_sha256}


def adapter_refused(why: str) -> dict[str, str]:
    """Of a trial's run when its adapter is not uploaded.

    There is no digest then: an adapter of an earlier step may be there, and is not the trial's best.
    """
    return {ADAPTER_REFUSED: why, ADAPTER_SHA256: ""}


def _versions() -> dict[str, str]:
    tags = {"version.python": platform.python_version()}
    for package in _PACKAGES:
        try:
            tags[f"version.{package.removesuffix('-skinny')}"] = version(package)
        except PackageNotFoundError:
            continue
    return tags
