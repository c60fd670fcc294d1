"""What is expected of a sweep: trials at each rung, steps, tokens, evaluations, time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from search_spaces.space import SearchSpace
from sweeps.config import resource
from sweeps.config.model import SweepConfig
from sweeps.planning import epochs, virtual_sweep
from sweeps.planning.forecast import Forecast
from sweeps.planning.rates import UNKNOWN, Load, Rate, RateKey, speed
from sweeps.planning.time_cost import Cost, Range, cost, evaluation_share
from trainables.contract import RowShape

UNNAMED = (
    "unknown: rates belong to a type of GPU; name it as cluster.gpu. Sweeps on such GPUs, or `qsweep plan FILE "
    "--calibrate` on a machine with one, leave its rates in the cache"
)
UNMEASURED = (
    "unknown: no rate of a GPU of the type {gpu} is known here, so a fast type is not told from a slow one. Sweeps on "
    "such GPUs, or `qsweep plan FILE --calibrate` on a machine with one, leave its rates in the cache"
)
UNCOUNTED = (
    "unknown, as is the share of evaluation: data.eval_examples null takes all rows of data.eval, which are not "
    "counted yet: give data.eval_examples, or run `qsweep plan FILE --calibrate`"
)
FORWARD_SHARE = 0.5
"""An evaluated token against a trained one: a frozen base needs no gradients of its weights, so the backward pass costs
about what the forward pass does (2 + 2 FLOP per parameter and token against 2)."""
MEAN_OF_LONGEST = 0.4
"""A row's mean length as a part of data.max_length, before the rows were read: GSM8K's have 217 tokens under 512."""


@dataclass(frozen=True)
class Known:
    """What is known of rows and rates before a sweep."""

    rates: Sequence[Rate] = ()
    key: RateKey | None = None
    """Of the base on the device; None when the device is unknown."""
    rows: RowShape | None = None
    """None when the rows were never prepared on this machine."""
    eval_rows: int | None = None
    """Rows of an evaluation, as a look at the local files has counted them; None without it."""


@dataclass(frozen=True)
class Outlook:
    """What is expected, as far as it can be said."""

    reaching: tuple[float, ...]
    """Trials at each report point, rounded to a tenth."""
    steps: Range
    """Optimizer steps of all trials."""
    evaluations: float
    """Of all trials, and one of the base."""
    tokens: float | None
    """Of these steps; None without rows. An estimate until the rows were prepared once on this machine."""
    are_tokens_known: bool
    evaluation_share: float | None
    """Part of the work that goes into evaluations, 0 to 1; None when nothing is known of it."""
    cost: Cost | None
    """None when no rate is known."""
    rate: str
    """Where the cost comes from, in words, or how to know it."""
    totals: tuple[int, ...] = ()
    """See `Work.totals`."""

    def as_json(self) -> dict[str, Any]:
        """Plain data; of the cost, `seconds` and `gpu_hours` with their ranges, and `worst_seconds`."""
        plain = asdict(self)
        del plain["totals"]
        told = plain.pop("cost") or {"seconds": None, "gpu_hours": None, "worst_seconds": None}
        return {**plain, **told}


def outlook(config: SweepConfig, space: SearchSpace, trials: int, hosts: tuple[int, int, int], known: Known) -> Outlook:
    """The outlook of a checked sweep.

    Args:
        trials: different ones, as many as there will be.
        hosts: how many, slots of each, and GPUs of each (0: on a CPU).
    """
    count, slots, gpus = hosts
    seen = _expected(config, trials, count, slots)
    worst, per_unit = most_steps(config, space, trials, count * slots), resource.steps_per_unit(config, space)
    work = seen.work(trials, worst, per_unit, config.searcher.most_repeats)
    evaluated = evaluation_rows(config, known)
    load = _load(config, space, slots, known.rows, evaluated or 0)
    rate_here = speed(known.rates, known.key, load) if known.key is not None and evaluated is not None else None
    taken = cost(work, rate_here, count, gpus) if rate_here is not None else None
    share = None
    if rate_here is not None and rate_here.step_seconds:
        share = evaluation_share(work, rate_here.step_seconds, rate_here.evaluation_seconds)
    elif load.row_tokens and evaluated is not None:
        share = evaluation_share(work, load.tokens_per_step, evaluated * load.row_tokens * FORWARD_SHARE)
    return Outlook(
        reaching=tuple(round(reached, 1) for reached in seen.reaching),
        steps=work.steps,
        totals=work.totals,
        evaluations=round(work.evaluations, 1),
        tokens=work.steps.expected * load.tokens_per_step if load.row_tokens else None,
        are_tokens_known=known.rows is not None,
        evaluation_share=share,
        cost=taken,
        rate=f"by {rate_here.measured} steps that were measured"
        if rate_here is not None
        else _unknown(config, known, evaluated, gpus > 0),
    )


def _unknown(config: SweepConfig, known: Known, evaluated: int | None, is_gpu: bool) -> str:
    """Why no time can be told, and what to do about it."""
    if evaluated is None:
        return UNCOUNTED
    if is_gpu and known.key is not None and config.cluster.gpu is not None:
        return UNMEASURED.format(gpu=config.cluster.gpu)
    return UNNAMED if known.key is None and is_gpu else UNKNOWN


def evaluation_rows(config: SweepConfig, known: Known) -> int | None:
    """Rows of one evaluation, 0 where there is no data; None where all rows are taken and nobody has counted them."""
    if config.data is None:
        return 0
    if known.rows is not None:
        return known.rows.eval_rows
    return known.eval_rows if known.eval_rows is not None else config.data.eval_examples


def most_steps(config: SweepConfig, space: SearchSpace, trials: int, slots: int) -> int:
    """Optimizer steps that the sweep takes at most, the trials that repeat others included."""
    again = repeats(config, trials)
    most = _most(config, trials, slots) + again * resource.of(config).total
    return resource.most_steps(config, space, most, trials + again)


def may_train_all(config: SweepConfig, trials: int, slots: int) -> bool:
    """Whether at worst every trial is trained to the end, and none is repeated."""
    return _most(config, trials, slots) == trials * resource.of(config).total and not repeats(config, trials)


def _most(config: SweepConfig, trials: int, slots: int) -> int:
    """What the trials take together at most of the resource, without repeats."""
    compared, protects_first = resource.of(config), config.searcher.start_with_default
    return compared.scheduler.most_steps(compared.total, trials, slots, protects_first)


def repeats(config: SweepConfig, trials: int) -> int:
    """Trials that repeat others at the end, at most."""
    return config.searcher.most_repeats(trials)


def _expected(config: SweepConfig, trials: int, hosts: int, slots: int) -> Forecast:
    """The trials that reach each report point, from playing the scheduler's rule on hosts of so many slots each."""
    compared = resource.of(config)
    protects_first, is_random = config.searcher.start_with_default, config.scheduler.compares
    made = virtual_sweep.plays(
        lambda: compared.scheduler.build(compared.total), trials, hosts, slots, protects_first, is_random
    )
    return Forecast(compared.points, made, hosts)


def _load(config: SweepConfig, space: SearchSpace, slots: int, rows: RowShape | None, evaluated: int) -> Load:
    """What a step and an evaluation hold."""
    if resource.of(config).unit == "example":
        rows_per_step = 1 / resource.steps_per_unit(config, space)
    else:
        fewest, most = epochs.rows_per_trial(config, space)
        rows_per_step = (fewest + most) / 2 / config.budget.steps_per_trial
    if config.data is None:
        return Load(tokens_per_step=0.0, slots=slots, evaluation_rows=0, row_tokens=0.0)
    mean = rows.mean if rows is not None else config.data.max_length * MEAN_OF_LONGEST
    return Load(rows_per_step * mean, slots, evaluated, mean)
