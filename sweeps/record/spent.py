"""Adds up what a sweep has spent: steps, tokens, time and GPU-hours. Pure."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field

from sweeps.record.sweep_record import SweepRecord, TrialRecord
from trainables.specs import Spec

HOUR = 3600.0


class Spent(Spec):
    """What a sweep has spent so far, under all of its drivers."""

    steps: int
    """Optimizer steps of all trials. A step that was trained again after a crash counts once."""
    examples: int
    """Rows of these steps; a row counts each time it was trained on."""
    tokens: int
    """Tokens of these steps, without padding."""
    seconds: float
    """Seconds from the start to the latest event, without the time between two drivers."""
    host_seconds: float = Field(exclude=True)
    """Number of hosts times the seconds for which they were held. JSON lines leave it out."""
    gpu_hours: float
    """Number of GPUs times the hours for which they were held; 0 on a CPU."""
    full_steps: int
    """Steps that the trials would have taken if the scheduler had stopped none."""


def spent(record: SweepRecord, steps_per_trial: int) -> Spent:
    """Adds up what the sweep has spent. `steps_per_trial` counts for trials whose own specification is unknown."""
    trials = record.trials.values()
    hosts = record.host_seconds_spent()
    return Spent(
        steps=sum(trial.step for trial in trials),
        examples=sum(trial.step * _rows_per_step(trial) for trial in trials),
        tokens=sum(trial.tokens for trial in trials),
        seconds=record.seconds_spent(),
        host_seconds=sum(hosts.values()),
        gpu_hours=record.gpu_seconds_spent() / HOUR,
        full_steps=sum(
            _full_steps(trial, steps_per_trial) if trial.stopped_by_scheduler else trial.step for trial in trials
        ),
    )


def _rows_per_step(trial: TrialRecord) -> int:
    training = _spec(trial).get("training", {})
    return int(training.get("batch_size", 0) * training.get("gradient_accumulation_steps", 0))


def _full_steps(trial: TrialRecord, otherwise: int) -> int:
    return int(_spec(trial).get("steps", otherwise))


def _spec(trial: TrialRecord) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(trial.spec) if trial.spec else {}
    return spec


class Planned(Spec):
    """The plan, and its errors as shares: 0.1 if the sweep took 10 % more than planned, -0.1 if 10 % less."""

    steps: int
    steps_off: float
    seconds: float | None
    seconds_off: float | None
    """None if no rate was known."""
    memory_bytes: int | None
    """Memory of one host."""
    memory_off: float | None
    """None if no memory was planned, or none was reported."""


def planned(record: SweepRecord, taken: Spent) -> Planned | None:
    """Compares a sweep's plan with what it took; None without a plan, and if limits or points were changed since."""
    plan = record.planned
    if plan is None or record.changes or record.added:
        return None
    peak = record.peak_memory_bytes
    return Planned(
        steps=plan.steps,
        steps_off=_off(taken.steps, plan.steps),
        seconds=plan.seconds,
        seconds_off=_off(taken.seconds, plan.seconds) if plan.seconds else None,
        memory_bytes=plan.memory_bytes,
        memory_off=_off(peak, plan.memory_bytes) if plan.memory_bytes and peak else None,
    )


def _off(taken: float, planned: float) -> float:
    return round(taken / planned - 1, 3)
