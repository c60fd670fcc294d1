"""Adds up what a sweep has spent: steps, tokens, time and GPU-hours. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sweeps.record.sweep_record import SweepRecord

HOUR = 3600.0


@dataclass(frozen=True)
class Spent:
    """What a sweep has spent so far, under all of its drivers."""

    steps: int
    """Optimizer steps of all trials. A step that was repeated after a loss counts once."""
    tokens: int
    """Tokens of these steps, padding not counted."""
    seconds: float
    """From the start to the latest event, without the time between two drivers."""
    host_seconds: float | None
    """Number of hosts times the seconds that they were held; None when an earlier version did not write them down."""
    gpu_hours: float | None
    """Hours that GPUs were held; 0 on a CPU."""
    full_steps: int
    """Steps that the trials would have taken if the scheduler had stopped none."""

    def as_json(self) -> dict[str, Any]:
        """The value of `spent` in the JSON line."""
        fields = asdict(self)
        del fields["host_seconds"]
        return fields


def spent(record: SweepRecord, steps_per_trial: int) -> Spent:
    """What the sweep has spent by its latest event.

    Args:
        record: the sweep.
        steps_per_trial: what a trial takes that nobody stops.
    """
    trials = record.trials.values()
    hosts = record.host_seconds_spent()
    return Spent(
        steps=sum(trial.step for trial in trials),
        tokens=sum(trial.tokens for trial in trials),
        seconds=record.seconds_spent(),
        host_seconds=None if record.hosts_unknown else sum(hosts.values()),
        gpu_hours=None if record.hosts_unknown else hosts.get("cuda", 0.0) / HOUR,
        full_steps=sum(steps_per_trial if trial.stopped_by_scheduler else trial.step for trial in trials),
    )
