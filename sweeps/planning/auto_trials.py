"""`budget.trials: auto` becomes a number, and the first rung with it. Pure."""

from __future__ import annotations

from dataclasses import replace

from sweeps.config import resource
from sweeps.config.load import Sweep
from sweeps.config.model import Budget, SweepConfig
from sweeps.errors import ConfigError
from sweeps.planning import plan, time_budget
from sweeps.planning.number_words import counted, duration
from sweeps.planning.outlook import Known, outlook
from sweeps.planning.trials_that_fit import MOST_TRIALS, Filled, fill
from trainables.contract import Need


def settled(sweep: Sweep, need: Need | None, machine: plan.Machine, known: Known) -> tuple[Sweep, str]:
    """The sweep with as many trials as fill its budget of time, and how that came, in words.

    Args:
        sweep: a sweep with `budget.trials: auto`.
        need: of its largest trials, as in `plan.plan`.

    Raises:
        ConfigError: no rate is known, or not one trial fits.
    """
    config = sweep.config
    bounded = time_budget.shortest(config, machine.hosts * machine.gpus)
    if bounded is None:
        raise ConfigError(["budget.trials: auto: no GPU is used here, so gpu_hours bounds nothing: give wall_clock"])
    budget, words = bounded

    def takes(trials: int, first: int) -> float:
        tried = _with(config, trials, first)
        slots = plan.slots_per_host(tried, need, machine) or 1
        seen = outlook(tried, sweep.space, trials, (machine.hosts, slots, machine.gpus), known)
        if seen.cost is None:
            raise ConfigError([f"budget.trials: auto: the time of a trial is {seen.rate}, or give a number of trials"])
        return seen.cost.seconds.expected

    points, factor = config.scheduler.points(config.budget.steps_per_trial), _factor(config)
    firsts = points[:-1] or points
    distinct = plan.different(config, sweep.space)
    filled = fill(
        budget,
        firsts,
        takes,
        lambda trials, first: trials >= factor ** len(points[points.index(first) : -1]),
        *(() if distinct is None else (distinct,)),
    )
    if filled is None:
        raise ConfigError([f"budget.trials: auto: {words} does not hold one trial of {_whole(config)}: raise it"])
    # Again: with another first rung the last two may be one step of a large batch.
    chosen, wrong = resource.settled(_with(config, filled.trials, filled.first), sweep.space, None)
    if wrong:
        raise ConfigError(wrong)
    return replace(sweep, config=chosen), _words(chosen, filled, words)


def with_some(sweep: Sweep) -> Sweep:
    """The sweep with as many trials as a sweep has by default: for a look at its speed."""
    config = _with(sweep.config, Budget().count, sweep.config.scheduler.grace_steps)
    return replace(sweep, config=config)


def _with(config: SweepConfig, trials: int, first: int) -> SweepConfig:
    return config.model_copy(
        update={
            "budget": config.budget.model_copy(update={"trials": trials}),
            "scheduler": config.scheduler.model_copy(update={"grace_steps": first}),
        }
    )


def _factor(config: SweepConfig) -> int:
    """One of so many trials goes on at each rung; under a scheduler that stops none, each number ranks them."""
    return 1 if config.scheduler.kind == "fifo" else int(getattr(config.scheduler, "reduction_factor", 1))


def _whole(config: SweepConfig) -> str:
    compared = resource.of(config)
    return counted(compared.total, compared.unit)


def _words(config: SweepConfig, filled: Filled, budget: str) -> str:
    compared = resource.of(config)
    first = counted(compared.points[0], compared.unit)
    most = f"; auto chooses {MOST_TRIALS:,} trials at most: give a number for more"
    return (
        f"budget.trials: auto is {filled.trials}: with the first ranking after {first} they are expected to "
        f"take {duration(filled.seconds)} of {budget}" + (most if filled.trials == MOST_TRIALS else "")
    )
