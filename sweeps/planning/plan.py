"""Plans what a sweep will do and cost, before anything is spent. Pure: memory and devices are arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from numbers import Real
from typing import Any

from pydantic_core import to_jsonable_python

from search_spaces.space import SearchSpace
from sweeps.config import resource
from sweeps.config.model import SweepConfig
from sweeps.config.number_words import counted, size
from sweeps.errors import ConfigError
from sweeps.planning import advice, capacity
from sweeps.planning.capacity import Machine
from sweeps.planning.forecast import Forecast, RowsAndRates, forecast, most_steps, trials_of
from sweeps.planning.lora_or_qlora import GpuAdvice
from sweeps.planning.rates import Range
from sweeps.record.spent import HOUR
from trainables.contract import Device, Memory, Need
from trainables.inputs.legible import legible
from trainables.specs import short_names


@dataclass(frozen=True)
class PlannedBase:
    """A base of a sweep, and what a host with it takes."""

    name: str
    slots_per_host: int | None
    memory_bytes: int | None
    """See `Plan.memory_bytes`."""
    fits: bool
    """See `Plan.fits`. Points on a base that does not fit are infeasible."""
    seconds: Range | None
    """Time of its share of the trials, without the start of the hosts; None if unknown."""


@dataclass(frozen=True)
class Plan:
    """Expected trials, slots, memory, disk, time and cost of a sweep."""

    trials: int
    points: tuple[int, ...]
    """Report points of a trial, in `unit`."""
    unit: resource.Unit
    """Unit of the report points: optimizer steps, or examples if the batch size is searched."""
    expected_steps: int
    worst_steps: int
    hosts: int
    slots_per_host: int | None
    """Maximum slots of a host. None if its memory or the model's size is unknown here: each host decides."""
    slots: int | None
    """Slots of all hosts together; None if `slots_per_host` is None."""
    device: Device
    place: str
    """Where the hosts are, in words. A plan may be for another machine than this one."""
    memory_bytes: int | None
    """Estimated memory of one host with these slots, or of the fullest of its GPUs; None if unknown."""
    memory: Memory | None
    """`memory_bytes` by part."""
    fits: bool
    """Whether a host has the memory, as far as this is known here. A plan that does not fit cannot run."""
    disk_bytes: int | None
    """Estimated maximum on disk: each trial's best adapter, and snapshots of trials that train or are parked."""
    warnings: tuple[str, ...]
    """Warnings of an early end of the sweep come first, because a launch shows only a few."""
    ends_alone: bool
    """Whether trials are too few for a promotion to the last step by rank, so that the best trial goes on alone."""
    rows_per_trial: int | None
    """Rows that a trial trains on if it is not stopped early; None without data."""
    forecast: Forecast
    gpus_per_host: int
    """0 on a CPU. A host with several GPUs spreads its base over all of them."""
    train_rows: int | None = None
    eval_rows: int | None = None
    test_rows: int | None = None
    """Rows for promotion alone; None if not known yet."""
    group_by: str | None = None
    """Column whose equal values mark rows of one group. No group is both trained on and evaluated."""
    choices: tuple[GpuAdvice, ...] = ()
    """LoRA against QLoRA on GPUs of common sizes; empty if the model's sizes are unknown."""
    engine: str | None = None
    """Engine that computes the losses; None if it is known only after the base is loaded."""
    patience: int | None = None
    """`budget.patience` may end the sweep earlier than the forecast."""
    parks: bool = False
    """Whether trials are parked at report points."""
    trains_default: bool = False
    """Whether trial 0 is the default configuration, which is trained to its end whatever it reports."""
    price: float | None = None
    """Price of a GPU-hour in any currency; None if not given."""
    bases: tuple[PlannedBase, ...] = ()
    """The bases, where the sweep searches its base. Slots, memory and steps of the plan are then those of the largest
    base, and its time is that of equally many trials on each, with all changes."""
    changes: int = 0
    """The most times that a host changes its base in a sweep without failures."""

    def __repr__(self) -> str:
        return f"<Plan: {counted(self.trials, 'trial')}, about {counted(self.expected_steps, 'step')}, {self.place}>"

    @property
    def epochs(self) -> float | None:
        """Returns `rows_per_trial` over `train_rows`; None if one of them is unknown."""
        return None if self.rows_per_trial is None or self.train_rows is None else self.rows_per_trial / self.train_rows

    @property
    def cost(self) -> Range | None:
        """Returns GPU-hours times price; None if one of them is unknown."""
        return self.cost_of(self.forecast.seconds)

    def gpu_hours(self, taken: Range) -> Range:
        """Returns the GPU-hours of all hosts in these seconds; 0 on a CPU."""
        return taken.times(self.hosts * self.gpus_per_host / HOUR)

    def cost_of(self, taken: Range | None) -> Range | None:
        """Returns the price of all hosts for these seconds; None if one of them is unknown."""
        return None if self.price is None or taken is None else self.gpu_hours(taken).times(self.price)

    def at(self, price: float | None) -> Plan:
        """Returns the plan at this price of a GPU-hour; raises ConfigError if it is invalid or no GPU is planned."""
        check_price(price)
        if price is not None and self.device == "cpu":
            raise ConfigError(["price: the sweep is planned for a CPU: name the GPU to rent, such as cluster.gpu=H100"])
        return replace(self, price=price)

    def as_json(self) -> dict[str, Any]:
        """Returns plain data with the same names, the epochs, the cost, and that of the most steps (`most_cost`)."""
        more = {"epochs": self.epochs, "cost": self.cost, "most_cost": self.cost_of(self.forecast.most_seconds)}
        plain: dict[str, Any] = to_jsonable_python(self)
        plain |= plain.pop("forecast") | to_jsonable_python(more)
        return plain | {"are_tokens_known": self.forecast.lengths_from == "tokens"}


def on_bases(planned: Plan, each: Mapping[str, Plan]) -> tuple[Plan, list[str]]:
    """Returns the plan of a sweep over several bases, and a warning for each base that does not fit.

    Args:
        each: base -> the plan as if all trials were on this base.
    """
    share = 1 / len(each)
    shown, found, times = short_names([*each]), [], []
    for name, own in each.items():
        seen = own.forecast
        alone = None
        if seen.seconds is not None and seen.start_seconds is not None:
            times.append(seen.seconds.times(share))
            alone = seen.seconds.plus(seen.start_seconds.times(-1)).times(share)
        found.append(PlannedBase(shown[name], own.slots_per_host, own.memory_bytes, own.fits, alone))
    fitting = [own for own in each.values() if own.fits] or [*each.values()]
    largest = max(fitting, key=lambda own: own.memory_bytes or 0)
    parks = len(planned.points) if largest.parks else 1
    changes = len(each) * parks - 1
    seconds = None
    if len(times) == len(each):
        start = largest.forecast.start_seconds or Range(0.0, 0.0, 0.0)
        seconds = reduce(Range.plus, times, Range(0.0, 0.0, start.high * changes))
        seconds = replace(seconds, expected=seconds.expected + start.expected * changes / 2)
    seen = replace(largest.forecast, seconds=seconds)
    told = [
        f"the base {base.name} takes about {size(base.memory_bytes or 0)}, more than is free: its points are infeasible"
        for base in found
        if not base.fits
    ]
    return replace(largest, bases=tuple(found), changes=changes, forecast=seen), told


def check_price(price: float | None) -> None:
    """Raises ConfigError for a price that is no number, not finite, or not above 0."""
    is_number = isinstance(price, Real)
    if price is not None and not (is_number and 0 < price < math.inf):
        shown = f"{price:g}" if is_number else legible(repr(price), 100)
        raise ConfigError([f"price: must be a finite number above 0, such as 2.5, not {shown}"])


def plan(
    config: SweepConfig, space: SearchSpace, need: Need | None, machine: Machine, known: RowsAndRates | None = None
) -> Plan:
    """Plans a checked sweep. `need` is for the largest specs of the space; None if the model's sizes are unknown."""
    known, trials = known or RowsAndRates(), trials_of(config, space)
    compared = resource.of(config)
    slots = capacity.slots_per_host(config, need, machine)
    total = capacity.slots_in_all(config, slots or 1, machine.hosts)
    seen = forecast(config, space, machine, slots or 1, known)
    memory = need.memory(slots) if need is not None and slots is not None else None
    planned = Plan(
        trials=trials,
        points=compared.points,
        unit=compared.unit,
        expected_steps=round(seen.steps.expected),
        worst_steps=most_steps(config, space, trials, total),
        hosts=machine.hosts,
        gpus_per_host=machine.gpus,
        slots_per_host=slots,
        slots=None if slots is None else total,
        device=machine.device,
        place=machine.place,
        memory_bytes=None if memory is None else memory.total,
        memory=memory,
        fits=memory is None or machine.free_bytes is None or memory.total <= machine.free_bytes,
        disk_bytes=None if need is None else capacity.disk_bytes(config, need, trials, total),
        ends_alone=compared.scheduler.needs_tail(compared.total, trials),
        warnings=(),
        rows_per_trial=None if config.data is None else resource.rows_per_trial(config),
        forecast=seen,
        group_by=None if config.data is None else config.data.group_by,
        patience=config.budget.patience,
        parks=config.scheduler.parks,
        trains_default=config.searcher.start_with_default,
    )
    return replace(
        planned,
        warnings=tuple(
            capacity.memory_warnings(config, machine, need, planned.memory_bytes)
            + capacity.disk_warnings(config, machine, need, trials, total)
            + advice.search_warnings(config, space, trials, total if slots is not None else machine.hosts)
            + advice.time_warnings(config, seen, machine.hosts, machine.gpus)
            + advice.evaluation_warnings(config, seen, known.rows)
        ),
    )
