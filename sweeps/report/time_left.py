"""How long a sweep still takes, by what it has done so far. Pure."""

from __future__ import annotations

from sweeps.record.events import TrialState
from sweeps.record.sweep_record import SweepRecord, TrialRecord


def seconds_left(
    record: SweepRecord, speed: float | None, planned_trials: int | None, now: float, at_launch: int | None
) -> float | None:
    """About how long the sweep still takes; None while no trial has ended by itself, and where nothing tells.

    The trials to come take as many steps as those that have ended by themselves. While trials are parked, these tell
    little of the others: then the sweep takes the steps of its plan, more or fewer as its trials became more or fewer.

    Args:
        speed: steps per second of all its trials together; None where that is not known.
        planned_trials: how many trials there are to be.
        now: seconds since the epoch; what was trained since the latest event is not counted twice.
        at_launch: how many trials there were to be when the plan was made.
    """
    ended = [trial.step for trial in record.trials.values() if _ended_by_itself(trial)]
    if speed is None or not ended or planned_trials is None:
        return None
    if not any(trial.state is TrialState.PARKED for trial in record.trials.values()):
        in_all = sum(ended) / len(ended) * planned_trials
    elif record.planned is not None and at_launch:
        in_all = record.planned.steps * planned_trials / at_launch
    else:
        return None
    steps = in_all - steps_taken(record)
    if steps <= 0:  # Trials took more steps than expected, and the sweep has not ended.
        return None
    return max(0.0, steps / speed - (now - (record.latest or now)))


def steps_taken(record: SweepRecord) -> int:
    """The steps that all trials have taken, each as of its latest report."""
    return sum(trial.step for trial in record.trials.values())


def _ended_by_itself(trial: TrialRecord) -> bool:
    """Whether the trial has trained and is over, and neither a person nor the budget ended it."""
    if trial.state is TrialState.STOPPED:
        return trial.stopped_by_scheduler
    return trial.state.is_final and trial.state is not TrialState.INFEASIBLE
