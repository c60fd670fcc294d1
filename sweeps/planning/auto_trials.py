"""`budget.trials: auto` becomes a number, and the first rung with it. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sweeps.config import resource
from sweeps.config.load import Sweep
from sweeps.config.model import Budget, SweepConfig
from sweeps.config.number_words import counted, duration
from sweeps.errors import ConfigError
from sweeps.planning import capacity
from sweeps.planning.forecast import SHOWN, RowsAndRates, different, forecast, shortest_budget
from trainables.contract import Need

MOST_TRIALS = 1_000
"""A plan of more is a slip of the pen, and their rates are not known that well."""
FILLED = 0.95
"""Part of the budget that is planned with: a sweep that ends by itself gives a whole answer."""


def settled(sweep: Sweep, need: Need | None, machine: capacity.Machine, known: RowsAndRates) -> tuple[Sweep, str]:
    """The sweep with as many trials as fill its budget of time, and how that came, in words.

    Args:
        sweep: a sweep with `budget.trials: auto`.
        need: of its largest trials, as in `plan.plan`.

    Raises:
        ConfigError: no rate is known, or not one trial fits.
    """
    config = sweep.config
    bounded = shortest_budget(config, machine.hosts * machine.gpus)
    if bounded is None:
        raise ConfigError(["budget.trials: auto: no GPU is used here, so gpu_hours bounds nothing: give wall_clock"])
    budget, words = bounded

    def takes(first: int, trials: int) -> float:
        """Expected seconds of a sweep with this first rung and so many trials."""
        tried = _with(config, trials, first)
        slots = capacity.slots_per_host(tried, need, machine) or 1
        seen = forecast(tried, sweep.space, machine, slots, known)
        if seen.seconds is None:
            raise ConfigError([f"budget.trials: auto: the time of a trial is {seen.rate}, or give a number of trials"])
        if not seen.is_measured:
            problem = "the time of a trial was not measured, and arithmetic alone is too rough to choose a number"
            raise ConfigError([f"budget.trials: auto: {problem}. {SHOWN}; or give a number of trials"])
        return seen.seconds.expected

    filled = _filled(sweep, budget * FILLED, takes)
    if filled is None:
        raise ConfigError([f"budget.trials: auto: {words} does not hold one trial of {_whole(config)}: raise it"])
    trials, first = filled
    # Again: with another first rung the last two may be one step of a large batch.
    chosen, wrong = resource.settled(_with(config, trials, first), sweep.space, None)
    if wrong:
        raise ConfigError(wrong)
    return replace(sweep, config=chosen), _words(chosen, takes(first, trials), words)


def with_some(sweep: Sweep) -> Sweep:
    """The sweep with as many trials as a sweep has by default: for a look at its speed."""
    config = _with(sweep.config, Budget().count, sweep.config.scheduler.grace_steps)
    return replace(sweep, config=config)


def _filled(sweep: Sweep, seconds: float, takes: Callable[[int, int], float]) -> tuple[int, int] | None:
    """The most trials that fit, and the lowest first rung that leaves enough of them to rank; None if none fits.

    The first rung of the sweep file comes first. Where so few trials fit that nobody would come to the last rung by
    rank, the next higher one is tried: fewer rungs, each with a ranking that says something. The last one is taken
    whatever it gives.
    """
    config = sweep.config
    points = config.scheduler.points(config.budget.steps_per_trial)
    # One of so many trials goes on at each rung; under a scheduler that compares none, any number will do.
    factor = config.scheduler.reduction_factor if config.scheduler.compares else 1
    distinct = different(config, sweep.space)
    most = MOST_TRIALS if distinct is None else min(distinct, MOST_TRIALS)
    found: tuple[int, int] | None = None
    for place, first in enumerate(points[:-1] or points):
        trials = _most(seconds, most, partial(takes, first))
        if trials:
            found = trials, first
        if trials >= factor ** len(points[place:-1]):
            break
    return found


def _most(seconds: float, most: int, takes: Callable[[int], float]) -> int:
    """The largest number of trials, 0 to `most`, that take at most `seconds`; few trials are tried first."""
    low, high = 0, 1
    while high < most and takes(high) <= seconds:
        low, high = high, 2 * high
    return bisect_right(range(min(high, most) + 1), seconds, lo=low + 1, key=takes) - 1


def _with(config: SweepConfig, trials: int, first: int) -> SweepConfig:
    return config.model_copy(
        update={
            "budget": config.budget.model_copy(update={"trials": trials}),
            "scheduler": config.scheduler.model_copy(update={"grace_steps": first}),
        }
    )


def _whole(config: SweepConfig) -> str:
    compared = resource.of(config)
    return counted(compared.total, compared.unit)


def _words(config: SweepConfig, seconds: float, budget: str) -> str:
    compared, trials = resource.of(config), config.budget.count
    first = counted(compared.points[0], compared.unit)
    most = f"; auto chooses {MOST_TRIALS:,} trials at most: give a number for more"
    return (
        f"budget.trials: auto is {trials}: with the first ranking after {first} they are expected to "
        f"take {duration(seconds)} of {budget}" + (most if trials == MOST_TRIALS else "")
    )
