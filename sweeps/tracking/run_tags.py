"""Defines the tags of a sweep's runs in MLflow: their names, their values, and when they are written. Pure.

A new tag is one more entry in the function of its moment: `sink.py` writes what these functions return.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from typing import Any

from sweeps.config.model import SweepConfig
from sweeps.record.events import SweepEnded, SweepStarted, TrialStarted, TrialState
from sweeps.record.selection import Selection
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.report.trial_tables import ending, markdown
from sweeps.statistics.comparison import Separation
from trainables.inputs.installed import version

SWEEP_ID = "sweep.id"
"""Tag of the sweep's run and of each trial's run, and of no other run."""
NAME = "sweep.name"
"""Tag of the sweep's own run: the sweep's name. The run's name in MLflow holds the id."""
TRIAL_KEY = "sweep.trial_key"
STATE = "sweep.state"
"""A trial's `TrialState`. On the sweep's run: RUNNING, or the reason of the sweep's end."""
REFIT_OF = "sweep.refit_of"
"""Tag of a refit's own run: the sweep of the trial that it trains anew."""
REFIT_OF_TRIAL = "sweep.refit_of_trial"
"""Key of that trial."""
NUMBER = "sweep.number"
REPEATS = "sweep.repeats"
"""Key of the trial whose point this trial trains again."""
BEST_TRIAL_KEY = "sweep.best_trial_key"
BEST_RUN = "sweep.best_run"
ADAPTER_SHA256 = "sweep.adapter_sha256"
"""Empty if the adapter was not uploaded."""
ADAPTER_REFUSED = "sweep.adapter_refused"
"""Why the adapter was not uploaded."""
EVAL_ROWS_SHA256 = "sweep.eval_rows_sha256"
DATA_FINGERPRINT = "data.fingerprint"
TEST_ROWS = "data.test_rows"
FINGERPRINT = "fingerprint."
"""Prefix of the tags that identify the base and the data."""
PARENT_RUN = "mlflow.parentRunId"
ANSWERS = "answers.json"
"""Artifact of a sweep's run: the rows that the best trial and the base answer differently."""
TABLES = {"mlflow.loggedArtifacts": f'[{{"path": "{ANSWERS}", "type": "table"}}]'}
"""Makes MLflow's UI show the artifact as a table (3.17.2, `MlflowClient.log_table`)."""
NOTE = "mlflow.note.content"
"""Text on a run's page, and in the column Description."""
_RUNNING = "RUNNING: the best trial is named here when the sweep ends"
_SOURCE = {"mlflow.source.name": "qsweep"}
_PACKAGES = (
    "qlora-sweeps", "ray", "torch", "transformers", "peft", "bitsandbytes", "datasets", "mlflow-skinny", "accelerate"
)  # fmt: skip


OF_A_SWEEP = f"tags.`{SWEEP_ID}` LIKE '%' and tags.`{TRIAL_KEY}` IS NULL"
"""Search condition: the run is a sweep's own, not a trial's."""


def equals(name: str, value: str) -> str:
    """Returns a search condition: the tag has this value."""
    return f"tags.`{name}` = '{value}'"


def sweep_made(sweep_id: str, config: SweepConfig) -> dict[str, str]:
    """Returns the tags with which the sweep's run is made."""
    own, origin = {SWEEP_ID: sweep_id, NAME: config.name, "mlflow.runColor": "#5f6b7a"}, config.refit_of
    of = {} if origin is None else {REFIT_OF: origin.sweep, REFIT_OF_TRIAL: origin.trial_key}
    return _SOURCE | own | of


def sweep_started(event: SweepStarted) -> dict[str, str]:
    """Returns the tags of the sweep's run when the sweep begins or goes on. They replace the note of an earlier end."""
    prints = {FINGERPRINT + name: digest for name, digest in event.fingerprints.items()}
    return {STATE: "RUNNING", NOTE: _RUNNING, **prints, **_versions()}


def data_prepared(summary: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tags of the sweep's run when the data is ready."""
    return {DATA_FINGERPRINT: str(summary["fingerprint"]), TEST_ROWS: str(summary.get("test_rows", 0))}


def sweep_ended(
    event: SweepEnded, record: SweepRecord, selection: Selection, separation: Separation | None, best_run: str | None
) -> dict[str, str]:
    """Returns the tags of the sweep's run when the sweep ends; `best_run` is the run of the best trial."""
    tags = {STATE: str(event.reason), NOTE: markdown(record, selection, separation)}
    if selection.winner is not None:
        tags |= {BEST_TRIAL_KEY: selection.winner.trial_key, BEST_RUN: str(best_run)}
    return tags


def trial_made(sweep_id: str, trial_key: str, parent_run: str) -> dict[str, str]:
    """Returns the tags with which a trial's run is made."""
    return {**_SOURCE, SWEEP_ID: sweep_id, TRIAL_KEY: trial_key, PARENT_RUN: parent_run}


def trial_started(event: TrialStarted, parent_run: str) -> dict[str, str]:
    """Returns the tags of a trial's run when the trial begins or goes on.

    They name the parent run again: the sweep may have got another run since the trial's run was made.
    """
    state = TrialState.RUNNING
    tags = {PARENT_RUN: parent_run, STATE: state, NUMBER: str(event.number), NOTE: state}
    return tags | ({} if event.repeats is None else {REPEATS: event.repeats})


def trial_waits_or_ended(trial: TrialRecord, metric: str) -> dict[str, str]:
    """Returns the tags of a trial's run when the trial is parked or ends; `metric` is the objective's."""
    return {STATE: trial.state, NOTE: ending(trial, metric)}


def trial_lost() -> dict[str, str]:
    """Returns the tags of the run of a trial that the event log does not know: nobody ranks or promotes it."""
    note = "lost with its machine: the sweep that went on elsewhere has no such trial"
    return {STATE: TrialState.FAILED, NOTE: note}


def adapter_uploaded(adapter_sha256: str, eval_rows_sha256: str) -> dict[str, str]:
    """Returns the tags of a trial's run when the adapter was uploaded."""
    return {ADAPTER_SHA256: adapter_sha256, EVAL_ROWS_SHA256: eval_rows_sha256}


def adapter_refused(why: str) -> dict[str, str]:
    """Returns the tags of a trial's run when the adapter is not uploaded.

    The digest is empty: MLflow may hold the adapter of an earlier step, which is not the trial's best.
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
