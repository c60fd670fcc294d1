"""Measures how much each searched field matters, by Optuna's PED-ANOVA (Watanabe and others, arXiv 2304.10255).

PED-ANOVA measures how far the values of the best trials lie from those of all trials. Shares add up to 1 even if
nothing matters. So the losses are shuffled among the trials, too: a field counts if its share is above its share in
each shuffle. Pure.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sweeps.config.points import Scalar
from sweeps.report.axes import Axis

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

LEAST = 20
"""Fewest trials. A field that decides nearly all is found in 6 of 10 sweeps with 20 trials, in 8 of 10 with 30."""
MOST_TRIALS = 200
"""Most trials that count. If there are more, only every second counts, or every third and so on."""
BEST = 5
"""Fewest trials that count as the best; Optuna advises no fewer. Of more than 50 trials, a tenth are the best."""
SHUFFLES = 19
"""Number of shuffles. A field that does not matter is above all of them in 1 of 20 cases."""


def shares(
    axes: Sequence[Axis], trials: Sequence[Mapping[str, Scalar]], losses: Sequence[float]
) -> dict[str, float | None]:
    """Returns name of a field -> its share of the importance, from 0 to 1; None if chance may bring as much.

    Args:
        trials: settings of at least `LEAST` trials.
        losses: finite values of the same trials after equal steps; lower is better.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    every = -(-len(trials) // MOST_TRIALS)
    trials, losses = trials[::every], losses[::every]
    study = optuna.study.create_study(sampler=optuna.samplers.RandomSampler())
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, BEST / len(trials)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warns that low values are good, and that few trials have a conditional field
        for params, loss in zip(trials, losses, strict=True):
            found = {axis.name: axis.at(value) for axis in axes if (value := params.get(axis.name)) is not None}
            domains = {axis.name: _distribution(axis) for axis in axes if axis.name in found}
            study.add_trial(optuna.trial.create_trial(value=loss, params=found, distributions=domains))
        rng = random.Random(0)
        orders = [losses, *(rng.sample(losses, len(losses)) for _ in range(SHUFFLES))]
        real, *mixed = (evaluator.evaluate(study, target=partial(_loss, order)) for order in orders)
    chance = {name: max(each[name] for each in mixed) for name in real}
    whole = sum(real.values()) or 1.0
    return {name: value / whole if value > chance[name] else None for name, value in real.items()}


def _loss(losses: Sequence[float], trial: FrozenTrial) -> float:
    return losses[trial.number]


def _distribution(axis: Axis) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if axis.options:
        return CategoricalDistribution(tuple(float(place) for place in range(len(axis.options))))
    return FloatDistribution(axis.low, axis.high)
