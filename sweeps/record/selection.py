"""Ranks the trials of a sweep, and chooses the best one. Pure."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass

from sweeps.config.model import SweepConfig
from sweeps.record import run_names
from sweeps.record.events import TrialState
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from trainables.objective import Objective, SortKey

FINALISTS = 4
"""Number of best trials that are scored with `evaluation.when: best`, besides the default configuration."""


@dataclass(frozen=True)
class Selection:
    """The best trial, or the reason why there is none."""

    winner: TrialRecord | None
    why: str = ""
    so_far: bool = False
    """Whether trials, or the sweep, have not ended: another trial may be the best in the end."""

    @property
    def mark(self) -> dict[str, bool]:
        """Returns the entry of a JSON line that says `so_far`; empty for a sweep that has ended."""
        return {"so_far": True} if self.so_far else {}


def choose(record: SweepRecord) -> Selection:
    """Chooses the best trial of a sweep, the first of `ranking`. Every command, file and call names this trial."""
    ranked, is_open, metric = ranking(record), _is_open(record), record.objective.metric
    lacking = [run_names.label(trial.number) for trial in record.trials.values() if metric in trial.lacking]
    if lacking and not (ranked and (is_open or metric in ranked[0].best_metrics)):
        why = f"no trial has {metric}: the answers of {', '.join(lacking)} could not be scored"
        return Selection(None, why, is_open)
    if ranked:
        return Selection(ranked[0], so_far=is_open)
    why = "no trial that may win has reported yet" if is_open else f"no trial completed with a finite {metric}"
    return Selection(None, why if record.trials else "no trial began", is_open)


def ranking(record: SweepRecord, objective: Objective | None = None) -> list[TrialRecord]:
    """Returns the trials that may be the best, best first, by the sweep's objective or another one.

    If the sweep has ended, the trials are those of `rank`. Until then they are all trials that have not failed and that
    no person has stopped. Each counts with its best value, but a trial that has not ended, and has gone further than
    all others, only with its best value up to the furthest report point that another trial has reached.
    """
    trials, objective = record.trials.values(), objective or record.objective
    if not _is_open(record):
        return rank(trials, objective)
    in_play = [trial for trial in trials if _may_win(record, trial)]
    return _sorted(in_play, objective, _shared(in_play))


def rank(trials: Iterable[TrialRecord], objective: Objective) -> list[TrialRecord]:
    """Returns the trials that completed or were stopped early, best first.

    A trial's best value on the sweep's fixed evaluation rows counts, not its last value. Trials that were stopped
    before their answers were scored rank behind trials with a score. Between equal values the loss decides, then the
    lower trial number, so the order of arrival does not matter.
    """
    return _sorted((trial for trial in trials if trial.state.is_ranked), objective)


def pareto(record: SweepRecord) -> list[TrialRecord]:
    """Returns the Pareto set of `ranking` by the sweep's objectives, best first.

    No other trial is better than one of the set in one objective and as good in the others. Trials with equal values in
    all objectives are both in the set.
    """
    losses = [
        (trial, [objective.loss(trial.value(objective.metric)) for objective in record.objectives])
        for trial in ranking(record)
    ]
    return [
        trial
        for trial, mine in losses
        if all(map(math.isfinite, mine))
        and not any(other != mine and all(map(operator.le, other, mine)) for _, other in losses)
    ]


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


def without_all_rows(record: SweepRecord) -> list[TrialRecord]:
    """Returns the trials to evaluate on all rows next, before one is the best: those that rank before one with all."""
    ranked = rank(record.trials.values(), record.objective)
    first = next((place for place, trial in enumerate(ranked) if trial.best_part is None), len(ranked))
    return [trial for trial in ranked[: min(first, FINALISTS)] if trial.adapter]


def _is_open(record: SweepRecord) -> bool:
    """Tells whether more may come: the sweep, or a trial that is no repeat, has not ended, or not in order."""
    is_cut_short = record.ended is None or record.ended.reason in ("interrupted", "failed")
    return is_cut_short or any(not trial.state.is_final for trial in record.trials.values() if trial.repeats is None)


def _may_win(record: SweepRecord, trial: TrialRecord) -> bool:
    """Tells whether a trial of an open sweep may be the best: it has not failed, and no person has stopped it."""
    if trial.state is TrialState.STOPPED:
        return trial.stopped_by_scheduler or trial.trial_key not in record.trials_to_stop
    return trial.state.is_ranked or not trial.state.is_final


def _shared(trials: Iterable[TrialRecord]) -> float:
    """Returns the furthest report point that two of the trials have reached, or that of a single trial."""
    furthest = sorted(_point(t, t.reported_step) for t in trials if t.repeats is None and t.evals)
    return min(furthest[-2:], default=math.inf)


def _point(trial: TrialRecord, step: int) -> int:
    return trial.points.get(step, step)


def _sort_keys(trial: TrialRecord, objective: Objective, shared: float) -> tuple[SortKey, SortKey]:
    """Returns the trial's best sort key up to the shared report point, then its best one of all."""
    own = objective.sort_key(trial.best_metrics)
    if trial.state.is_final or _point(trial, trial.reported_step) <= shared:
        return own, own
    until = (objective.sort_key(metrics) for step, metrics in trial.evals if _point(trial, step) <= shared)
    return min(until, default=own), own


def _sorted(trials: Iterable[TrialRecord], objective: Objective, shared: float = math.inf) -> list[TrialRecord]:
    """Sorts the trials with a finite objective or a finite loss: best first, equal ones by number.

    A trial whose answers could not be scored by the objective has no rank, whatever its loss. Repeats are left out: the
    luckiest of several seeds would pass for a better point.
    """
    own = (trial for trial in trials if trial.repeats is None and objective.metric not in trial.lacking)
    keyed = [(_sort_keys(trial, objective, shared), trial) for trial in own]
    fit = [(found, trial) for found, trial in keyed if found[1] < SortKey()]
    return [trial for _, trial in sorted(fit, key=lambda each: (each[0], each[1].number))]
