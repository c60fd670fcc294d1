"""Computes points with Optuna's tree-structured Parzen estimator (TPE) from a history and a seed.

Uses the multivariate estimator of Optuna 5.0.0 (samplers/_tpe/sampler.py) with `constant_liar` and, for conditional
fields, `group`. With `constant_liar`, points without a result count as bad, so that parallel trials spread out.
`_split_trials` there ranks complete trials by value, then pruned trials by how far they came and their value there,
then infeasible trials. Numbers are given as positions in [0, 1], words and flags as categories.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Set
from functools import partial
from typing import TYPE_CHECKING, Any

from search_spaces.domains import Domain, Value, identity
from search_spaces.space import Point, SearchSpace
from sweeps.searchers._learner import History, TriedPoint

if TYPE_CHECKING:
    import optuna

MOST_POINTS = 250
"""Maximum number of points for the estimator, unless more are open: each point adds work. From 250 on, the estimator
takes 25 points as good (`default_gamma`), however many there are."""
BEST = 50
"""Best points among them; the others are the contrast."""


def points(space: SearchSpace, history: History, seed: int) -> Iterator[Point]:
    """Yields promising points without end; each counts the points before it as tried."""
    study = _study(space, history, seed)
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `group` is called experimental at each use
            point = space.fill(partial(_suggest, study.ask()))
        yield point


def _study(space: SearchSpace, history: History, seed: int) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=1, multivariate=True, group=bool(space.conditions()), constant_liar=True
        )
        study = optuna.create_study(sampler=sampler)
    common = history.common
    worst = max((value for seen in history.seen for value in seen.values.values()), default=0.0)
    for seen in _given(history):
        params = _params(space, seen.point)
        if params is not None:
            given = {"params": params, "distributions": {name: _distribution(space.domains[name]) for name in params}}
            study.add_trial(_trial(seen, given, common, worst))
    return study


def _given(history: History) -> list[TriedPoint]:
    """Returns the points for the estimator: all points, or of many the best, the open and the latest other points."""
    seen = list(history.seen)
    if len(seen) <= MOST_POINTS:
        return seen
    chosen = {id(each) for each in history.ranked()[:BEST]} | {id(each) for each in seen if each.is_open}
    others = [each for each in seen if id(each) not in chosen]
    chosen |= {id(each) for each in others[-max(1, MOST_POINTS - len(chosen)) :]}
    return [each for each in seen if id(each) in chosen]


def _trial(seen: TriedPoint, given: Mapping[str, Any], common: Set[int], worst: float) -> optuna.trial.FrozenTrial:
    """Returns Optuna's trial: complete, pruned at the resource where the point is judged, infeasible, or running."""
    from optuna.trial import TrialState, create_trial

    if seen.failure in ("infeasible", "out_of_memory"):
        trial = create_trial(state=TrialState.PRUNED, **given)
        trial.set_constraint("trains", 1.0)
        return trial
    if seen.failure == "diverged":
        # Optuna cannot rank infinity. The worst known value, at step 0, ranks behind all others.
        return create_trial(state=TrialState.PRUNED, intermediate_values={0: worst}, **given)
    if seen.is_open:
        return create_trial(state=TrialState.RUNNING, **given)
    compared = seen.judged_at(common)
    if seen.is_final and compared == max(seen.values):
        return create_trial(state=TrialState.COMPLETE, value=seen.values[compared], **given)
    return create_trial(state=TrialState.PRUNED, intermediate_values={compared: seen.values[compared]}, **given)


def _params(space: SearchSpace, point: Point) -> dict[str, Any] | None:
    """Returns Optuna's params of the point; None if the space lacks one of its fields or words."""
    params: dict[str, Any] = {}
    for name, value in point.items():
        domain = space.domains.get(name)
        if domain is None:
            return None
        if domain.is_ordered and isinstance(value, int | float):
            params[name] = domain.position(value)
        elif not domain.is_ordered and domain.contains(value):
            params[name] = _place(domain, value)
        else:
            return None
    return params


def _place(domain: Domain, value: Value) -> int:
    return next(place for place, option in enumerate(domain.values() or ()) if identity(option) == identity(value))


def _distribution(domain: Domain) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if domain.is_ordered:
        return FloatDistribution(0.0, 1.0)
    return CategoricalDistribution(tuple(range(len(domain.values() or ()))))


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Value:
    if domain.is_ordered:
        position = trial.suggest_float(name, 0.0, 1.0)
        assert math.isfinite(position)
        return domain.at(position)
    options = domain.values() or ()
    return options[int(trial.suggest_categorical(name, tuple(range(len(options)))))]
