"""The trials of a sweep in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from sweeps.record.sweep_record import SweepRecord, TrialRecord

_FIRST = ("state", "r", "lora_alpha", "target_modules", "learning_rate")
"""Columns right after the objectives: a terminal leaves out the columns in the middle of a table."""


@dataclass(frozen=True)
class Trial:
    """A trial, as it was at the time of the call."""

    key: str
    """Twelve letters and digits that follow from everything that decides the trial's numbers."""
    name: str
    """Name in tables, such as t03."""
    settings: Mapping[str, Any]
    """Setting -> value, as MLflow has them: r, lora_alpha, learning_rate."""
    metrics: Mapping[str, float]
    """The metrics at its best step; empty before its first report."""
    state: str
    """State in tables: RUNNING, PARKED, COMPLETED, STOPPED, FAILED and others."""
    reason: str
    """The reason for the trial's end; empty if nothing went wrong."""
    step: int
    """Steps that the trial had trained at its last report."""
    best_step: int | None
    adapter: Path | None
    """Folder of the adapter of its best step, for `PeftModel.from_pretrained`; None before its first report."""


def trials_of(record: SweepRecord, folder: Path) -> list[Trial]:
    """Returns the trials of a sweep, best first."""
    from sweeps.report import trial_tables

    return [trial_of(trial, folder) for trial in trial_tables.order(record)]


def table_of(record: SweepRecord, folder: Path) -> pandas.DataFrame:
    """See `Sweep.table`."""
    import pandas

    trials = trials_of(record, folder)
    rows = [
        {**t.settings, "step": t.step, **t.metrics, "state": t.state, "adapter": t.adapter and str(t.adapter)}
        for t in trials
    ]
    table = pandas.DataFrame(rows, index=pandas.Index([trial.name for trial in trials], name="trial"))
    columns = dict.fromkeys([*(objective.metric for objective in record.objectives), *_FIRST, *table.columns])
    return table[[name for name in columns if name in table.columns]]


def trial_of(trial: TrialRecord, folder: Path) -> Trial:
    from sweeps.record.run_names import label

    return Trial(
        key=trial.trial_key,
        name=label(trial.number),
        settings=dict(trial.params),
        metrics=dict(trial.best_metrics),
        state=trial.state.value,
        reason=trial.reason,
        step=trial.step,
        best_step=trial.best_step,
        adapter=trial.adapter_folder(folder),
    )
