"""Estimates how fast a sweep trains, and how long it still takes, from its training so far. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sweeps.record.events import TrialState
from sweeps.record.sweep_record import SweepRecord, TrialRecord


@dataclass(frozen=True)
class Trained:
    """Steps and tokens of several trials together."""

    steps: int
    tokens: int

    @classmethod
    def of(cls, trials: Iterable[TrialRecord]) -> Trained:
        """Adds up the steps and tokens of these trials."""
        done = [(trial.step, trial.tokens) for trial in trials]
        return cls(sum(steps for steps, _ in done), sum(tokens for _, tokens in done))


@dataclass(frozen=True)
class Rates:
    """How fast the trials train together under the latest driver."""

    steps_per_second: float
    tokens_per_second: float

    @classmethod
    def between(cls, before: Trained, now: Trained, seconds: float) -> Rates | None:
        """Returns the rates from `before` to `now`, `seconds` later; None if nothing was trained."""
        steps = now.steps - before.steps
        if steps <= 0 or seconds <= 0:
            return None
        return cls(steps / seconds, (now.tokens - before.tokens) / seconds)


def seconds_left(
    record: SweepRecord, rates: Rates | None, steps: int, planned_trials: int | None, at_launch: int | None
) -> float | None:
    """Estimates how long the sweep still takes; returns None if this is unknown.

    Each trial is taken to need the mean steps of those that have ended by themselves. Before the first trial has ended,
    and while trials are parked, this says little of the other trials. Then the steps of the plan count, in proportion
    to the number of trials.

    Args:
        steps: steps of all trials so far.
        planned_trials: number of trials in all, as it is now.
        at_launch: number of trials in the plan.
    """
    if rates is None or planned_trials is None:
        return None
    ended = [trial.step for trial in record.trials.values() if _ended_by_itself(trial)]
    if ended and not any(trial.state is TrialState.PARKED for trial in record.trials.values()):
        in_all = sum(ended) / len(ended) * planned_trials
    elif record.planned is not None and at_launch:
        in_all = record.planned.steps * planned_trials / at_launch
    else:
        return None
    # If trials took more steps than expected and the sweep has not ended, the rest is unknown.
    return (in_all - steps) / rates.steps_per_second if in_all > steps else None


def _ended_by_itself(trial: TrialRecord) -> bool:
    """Tells whether the trial has trained and is over, and neither a person nor the budget ended it."""
    if trial.state is TrialState.STOPPED:
        return trial.stopped_by_scheduler
    return trial.state.is_final and trial.state is not TrialState.INFEASIBLE
