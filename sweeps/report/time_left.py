"""How fast a sweep trains, and how long it still takes, by what it has done so far. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sweeps.record.events import TrialState
from sweeps.record.sweep_record import SweepRecord, TrialRecord


@dataclass(frozen=True)
class Trained:
    """What trials have trained together."""

    steps: int
    tokens: int

    @classmethod
    def of(cls, trials: Iterable[TrialRecord]) -> Trained:
        """What these trials have trained, each as of its latest report."""
        done = [(trial.step, trial.tokens) for trial in trials]
        return cls(sum(steps for steps, _ in done), sum(tokens for _, tokens in done))


@dataclass(frozen=True)
class Rates:
    """How fast the present driver trains."""

    steps_per_second: float
    """Optimizer steps of all trials together."""
    tokens_per_second: float

    @classmethod
    def between(cls, before: Trained, now: Trained, seconds: float) -> Rates | None:
        """The rates of what was trained in so many seconds; None where nothing was."""
        steps = now.steps - before.steps
        if steps <= 0 or seconds <= 0:
            return None
        return cls(steps / seconds, (now.tokens - before.tokens) / seconds)


def seconds_left(
    record: SweepRecord, rates: Rates | None, steps: int, planned_trials: int | None, at_launch: int | None
) -> float | None:
    """About how long the sweep still takes from now on; None where nothing tells.

    The trials to come take as many steps as those that have ended by themselves. Before the first has ended, and while
    trials are parked, these tell little of the others: then the sweep takes the steps of its plan, more or fewer as its
    trials became more or fewer.

    Args:
        rates: None where they are not known.
        steps: of all its trials so far.
        planned_trials: how many trials there are to be.
        at_launch: how many trials there were to be when the plan was made.
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
    # Where trials took more steps than expected, and the sweep has not ended, nothing tells.
    return (in_all - steps) / rates.steps_per_second if in_all > steps else None


def _ended_by_itself(trial: TrialRecord) -> bool:
    """Whether the trial has trained and is over, and neither a person nor the budget ended it."""
    if trial.state is TrialState.STOPPED:
        return trial.stopped_by_scheduler
    return trial.state.is_final and trial.state is not TrialState.INFEASIBLE
