"""Chooses the best trial of a sweep. Pure."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sweeps.config.model import SweepConfig
from sweeps.record import run_names
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from trainables.objective import Objective, Standing

FINALISTS = 4
"""Number of best trials that are scored with `evaluation.when: best`, besides the default configuration."""


@dataclass(frozen=True)
class Selection:
    """The winner, or the reason why there is none."""

    winner: TrialRecord | None
    why: str = ""


def choose(trials: Iterable[TrialRecord], objective: Objective) -> Selection:
    """Chooses the trial with the best value of the objective among those that completed or were stopped early.

    A trial's best value on the sweep's fixed evaluation rows counts, not its last value. Trials that were stopped
    before their answers were scored rank behind trials with a score. Between equal values the loss decides, then the
    lower trial number, so the order of arrival does not matter.
    """
    trials = tuple(trials)
    ranked, metric = rank(trials, objective), objective.metric
    lacking = [run_names.label(trial.number) for trial in trials if metric in trial.lacking]
    if lacking and (not ranked or metric not in ranked[0].best_metrics):
        return Selection(None, f"no trial has {metric}: the answers of {', '.join(lacking)} could not be scored")
    if not ranked:
        return Selection(None, f"no trial completed with a finite {objective.metric}" if trials else "no trial began")
    return Selection(ranked[0])


def rank(trials: Iterable[TrialRecord], objective: Objective) -> list[TrialRecord]:
    """Returns the trials that may win, best first."""
    return _sorted((trial for trial in trials if trial.state.is_ranked), objective)


def pareto(trials: Iterable[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    """Returns the Pareto set of the ranked trials, best first.

    No other trial is better than one of the set in one objective and as good in the others. Trials with equal values in
    all objectives are both in the set.
    """
    losses = [
        (trial, [objective.loss(trial.value(objective.metric)) for objective in objectives])
        for trial in rank(trials, objectives[0])
    ]
    return [
        trial
        for trial, mine in losses
        if all(map(math.isfinite, mine))
        and not any(other != mine and all(map(operator.le, other, mine)) for _, other in losses)
    ]


def leader(trials: Iterable[TrialRecord], objective: Objective) -> TrialRecord | None:
    """Returns the best trial so far, also if it has not ended; None before the first report."""
    in_play = (trial for trial in trials if trial.state.is_ranked or not trial.state.is_final)
    return next(iter(_sorted(in_play, objective)), None)


def unscored(config: SweepConfig, record: SweepRecord) -> list[TrialRecord]:
    """Returns the trials whose answers are to be scored at the end: those that lack scores, and finalists.

    Finalists (`evaluation.when: best`) are the best trials by the scheduler's metric, whatever was scored before: a
    sweep may have got more trials since. Trials that repeat a finalist are scored, too.
    """
    how = config.evaluation
    if how.when != "best" or not how.metrics:
        return [each for each in record.trials.values() if each.lacking and each.state.is_ranked and each.adapter]
    ranked = rank(record.trials.values(), config.stops)
    found = ranked[:FINALISTS]
    found += [trial for trial in ranked[FINALISTS:] if trial.number == 0 and config.searcher.start_with_default]
    keys = {trial.trial_key for trial in found}
    found += [
        trial for trial in record.trials.values() if trial.repeats in keys and trial.state.is_ranked and trial.adapter
    ]
    return [trial for trial in found if trial.lacking or not any(map(how.scores_by, trial.best_metrics))]


def _sorted(trials: Iterable[TrialRecord], objective: Objective) -> list[TrialRecord]:
    """Sorts the trials with a finite objective or a finite loss: best first, equal ones by number.

    A trial whose answers could not be scored by the objective has no rank, whatever its loss. Repeats are left out: the
    luckiest of several seeds would pass for a better point.
    """
    own = (trial for trial in trials if trial.repeats is None and objective.metric not in trial.lacking)
    standings = [(objective.standing(trial.best_metrics), trial) for trial in own]
    fit = [(standing, trial) for standing, trial in standings if standing < Standing()]
    return [trial for _, trial in sorted(fit, key=lambda each: (each[0], each[1].number))]
