"""Reads the trials of an earlier sweep from MLflow, for `searcher.warm_start`."""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.space import SearchSpace
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError, SweepError
from sweeps.record.events import EarlierPoint, EarlierTrials, TrialState
from sweeps.supply import warm_start
from sweeps.tracking import stores
from sweeps.tracking.client import without_retries
from sweeps.tracking.failures import answering
from sweeps.tracking.lookup import Lookup, TrackedSweep, TrialRun
from sweeps.tracking.stores import NamedSweep

_BY_KEY = "name another sweep, leave it out, or name the store with tracking.uri=URI"


def look_up(config: SweepConfig, own_id: str | None = None) -> TrackedSweep | None:
    """Returns the newest sweep that `searcher.warm_start` names and that has a result; None if it names none.

    `config` and `own_id` are of the new sweep. It may have the name that it learns from, and must not find itself.

    Raises:
        ConfigError: there is no such sweep, MLflow does not answer, or the new sweep cannot learn from the earlier one.
    """
    name = config.searcher.warm_start
    if name is None:
        return None
    uri, metric = config.tracking.uri, config.objectives[0].metric

    def is_ranked(trial: TrialRun) -> bool:
        return trial.repeats is None and trial.is_ranked(metric)

    try:
        stores.check_store(uri, _BY_KEY)
        with answering(uri), without_retries():
            earlier = Lookup(uri).sweep(NamedSweep(uri, name), _BY_KEY, other_than=own_id, with_trial=is_ranked)
    except SweepError as error:
        raise ConfigError([f"searcher.warm_start: {error}"]) from error
    why = warm_start.refusal(config, earlier.config)
    if why is not None:
        raise ConfigError([f"searcher.warm_start: {name}: {why}"])
    return earlier


def trials(
    earlier: TrackedSweep, config: SweepConfig, space: SearchSpace, fingerprints: Mapping[str, str], time: float
) -> EarlierTrials:
    """Returns the earlier trials that completed or were stopped, and that have a value for each field of the space.

    Leaves out repeats: their points are there already, with the losses by which the earlier sweep compared them. Leaves
    out stopped trials if the scheduler of the new sweep compares by another metric than its objective.
    """
    objective = config.objectives[0]
    points = []
    for trial in earlier.trials:
        if trial.repeats is not None:
            continue
        point = warm_start.point(space, trial.params)
        best = trial.best(objective.metric)
        step = None if trial.state == TrialState.COMPLETED else trial.steps
        is_compared = step is None or (step and config.stops == objective)
        if trial.is_ranked(objective.metric) and point is not None and is_compared:
            is_own = warm_start.has_our_settings(config, point, trial.params)
            loss, last = map(objective.loss, (best, trial.metrics.get(objective.metric, best)))
            points.append(EarlierPoint(point=dict(point), loss=loss, last=last, step=step, is_own=is_own))
    return EarlierTrials(
        time=time,
        sweep_id=earlier.sweep_id,
        trials=tuple(points),
        is_same_task=warm_start.is_same_task(config, earlier.config, fingerprints, earlier.fingerprints),
    )
