"""Budgets that end a sweep early: time, GPU-hours, trials without a gain, and a target to reach. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sweeps.config.model import Budget, SweepConfig
from sweeps.config.number_words import counted
from sweeps.config.points import Scalar
from sweeps.record.run_names import label
from sweeps.record.spent import HOUR
from sweeps.record.sweep_record import SweepRecord
from trainables.specs import seconds

CHANGEABLE = ("budget.trials", "budget.wall_clock", "budget.gpu_hours", "budget.patience", "cluster.hosts")
"""Keys of the sweep file that may change after the launch: they decide how much is tried, and not what."""


@dataclass(frozen=True)
class Reached:
    """A limit that a sweep has reached. `str` gives the whole sentence."""

    key: str
    """Key of the limit in the sweep file."""
    how: str

    def __str__(self) -> str:
        return f"{self.key} {self.how}"

    @property
    def can_be_raised(self) -> bool:
        """Tells whether a user may raise the limit."""
        return self.key in CHANGEABLE


def changed(config: SweepConfig, changes: Mapping[str, Scalar | None]) -> SweepConfig:
    """Returns the configuration at launch with later changes applied (see `SweepRecord.changes`)."""
    if not changes:
        return config
    sections: dict[str, dict[str, Scalar | None]] = {"budget": {}, "cluster": {}}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    update = {section: getattr(config, section).model_copy(update=values) for section, values in sections.items()}
    return config.model_copy(update=update)


def used_up(config: SweepConfig, record: SweepRecord, now: float) -> Reached | None:
    """Returns `reached` for the present limits, which may have changed since the launch."""
    return reached(changed(config, record.changes).budget, record, now)


def reached(budget: Budget, record: SweepRecord, now: float) -> Reached | None:
    """Returns a limit of time, GPU-hours or target that is reached; None while the sweep may go on.

    Args:
        record: the sweep so far; its present driver has begun.
        now: seconds since the epoch.
    """
    if budget.wall_clock is not None and record.seconds_spent(now) >= seconds(budget.wall_clock):
        return Reached("budget.wall_clock", "is used up")
    if budget.gpu_hours is not None and record.gpu_seconds_spent(now) >= budget.gpu_hours * HOUR:
        return Reached("budget.gpu_hours", f"{budget.gpu_hours:g} is used up")
    return _target(budget.target, record) if budget.target is not None else None


def out_of_patience(budget: Budget, record: SweepRecord) -> Reached | None:
    """Returns budget.patience if that many trials in a row brought no gain; None while new trials may begin."""
    if budget.patience is None or record.without_gain < budget.patience or record.last_gain is None:
        return None
    best, later = label(record.trials[record.last_gain].number), counted(record.without_gain, "trial")
    return Reached("budget.patience", f"{budget.patience}: at their first report {later} since {best} brought no gain")


def _target(target: float, record: SweepRecord) -> Reached | None:
    objective = record.objective
    for trial in record.trials.values():
        if trial.repeats is not None or (trial.state.is_final and not trial.state.is_ranked):
            continue  # The trial cannot be the best one.
        if trial.best_part is not None:
            continue  # A value by a part of the rows may be luck.
        value = trial.value(objective.metric)
        if trial.best_step is not None and objective.loss(value) <= objective.loss(target):
            best = f"{label(trial.number)} has {objective.metric} {value:.4f} at step {trial.best_step}"
            return Reached("budget.target", f"{target:g} is reached: {best}")
    return None
