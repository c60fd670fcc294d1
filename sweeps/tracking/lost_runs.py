"""Finds what MLflow no longer holds of what it has acknowledged. Pure.

A database that is put back from a backup, or a run that somebody deletes for good, takes with it what was acknowledged.
Only the event log still has it: the events are sent again, from the first one on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sweeps.record.events import TrialState
from sweeps.record.run_names import label
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.tracking import run_tags
from sweeps.tracking.metric_points import best_of


class Lost(Exception):  # noqa: N818 - reads as what happened
    """MLflow no longer holds what it has acknowledged."""


def missing(record: SweepRecord, runs: Mapping[str | None, Any]) -> str | None:
    """Names what is missing in MLflow; None when nothing is known to be missing.

    Looks at trials that have ended, whose runs nothing changes any more. Of one that may go on it looks only at what
    stays: a driver may have gone on with it since, and died before the next mark.

    Args:
        record: the sweep as far as it was acknowledged.
        runs: MLflow's runs by trial key, with their latest metrics.
    """
    for trial in record.trials.values():
        if trial.state.is_final and trial.state is not TrialState.INFEASIBLE:
            run = runs.get(trial.trial_key)
            what = "run" if run is None else _lacks(trial, run.data)
            if what is not None:
                return f"the {what} of {label(trial.number)}"
    return None


def _lacks(trial: TrialRecord, data: Any) -> str | None:
    if not trial.params.keys() <= data.params.keys():
        return "params"
    if trial.may_go_on:
        return None
    if data.tags.get(run_tags.STATE) != trial.state.value:
        return "end"
    latest = {**best_of(trial.best_metrics), **trial.evals[-1][1]} if trial.evals else {}
    for name, value in latest.items():
        if math.isfinite(value) and not math.isclose(data.metrics.get(name, math.inf), value, rel_tol=1e-9):
            return name
    # An adapter that was changed on disk was not uploaded: its digest is empty.
    uploaded = data.tags.get(run_tags.ADAPTER_SHA256)
    return "adapter" if trial.adapter_sha256 is not None and uploaded not in ("", trial.adapter_sha256) else None
