"""Replaces `budget.trials: auto` with the number of trials that fill the time budget. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace

from sweeps.config import resource
from sweeps.config.load import LoadedSweep
from sweeps.config.model import Budget
from sweeps.config.number_words import counted, duration
from sweeps.errors import ConfigError
from sweeps.planning import capacity
from sweeps.planning.forecast import SHOWN, Forecast, RowsAndRates, distinct_trials, forecast, shortest_budget
from trainables.contract import Need

MOST_TRIALS = 1_000
"""Maximum number of trials that auto chooses. A larger plan is probably a mistake, and rates are too imprecise."""
USUAL_TRIALS = Budget().count
FILLED = 0.95
"""Part of the budget to plan with: a sweep that ends before its budget does has trained all its trials."""


def with_auto_trials(
    sweep: LoadedSweep,
    need: Need | None,
    machine: capacity.Machine,
    known: RowsAndRates,
    over_bases: Callable[[LoadedSweep], Forecast] | None = None,
) -> tuple[LoadedSweep, str]:
    """Returns the sweep with as many trials as fill the time budget, and a line that explains their number.

    Args:
        over_bases: forecasts a sweep that searches its base, in place of `need` and `known`, which are of one base.

    Raises:
        ConfigError: nothing bounds the time, no rate was measured, or not one trial fits.
    """
    bounded = shortest_budget(sweep.config, machine.hosts * machine.gpus)
    if bounded is None:
        raise ConfigError(["budget.trials: auto: no GPU is used here, so gpu_hours bounds nothing: give wall_clock"])
    budget, words = bounded

    def takes(trials: int) -> float:
        tried = with_some(sweep, trials)
        slots = capacity.slots_per_host(tried.config, need, machine) or 1
        seen = over_bases(tried) if over_bases else forecast(tried.config, sweep.space, machine, slots, known)
        if seen.seconds is None:
            raise ConfigError([f"budget.trials: auto: the time of a trial is {seen.rate}, or give a number of trials"])
        if not seen.is_measured:
            problem = "the time of a trial was not measured, and arithmetic alone is too rough to choose a number"
            raise ConfigError([f"budget.trials: auto: {problem}. {SHOWN}; or give a number of trials"])
        return seen.seconds.expected

    trials = _most(budget * FILLED, min(distinct_trials(sweep.config, sweep.space) or MOST_TRIALS, MOST_TRIALS), takes)
    if not trials:
        compared = resource.of(sweep.config)
        whole = counted(compared.total, compared.unit)
        raise ConfigError([f"budget.trials: auto: {words} does not hold one trial of {whole}: raise it"])
    most = f"; auto chooses {MOST_TRIALS:,} trials at most: give a number for more" if trials == MOST_TRIALS else ""
    told = f"budget.trials: auto is {trials}: they are expected to take {duration(takes(trials))} of {words}{most}"
    return with_some(sweep, trials), told


def with_some(sweep: LoadedSweep, trials: int = USUAL_TRIALS) -> LoadedSweep:
    """Returns the sweep with this many trials; the default number serves to measure its speed."""
    budget = sweep.config.budget.model_copy(update={"trials": trials})
    return replace(sweep, config=sweep.config.model_copy(update={"budget": budget}))


def _most(seconds: float, most: int, takes: Callable[[int], float]) -> int:
    """Returns the largest number of trials, 0 to `most`, that take at most `seconds`. Small numbers are tried first."""
    low, high = 0, 1
    while high < most and takes(high) <= seconds:
        low, high = high, 2 * high
    return bisect_right(range(min(high, most) + 1), seconds, lo=low + 1, key=takes) - 1
