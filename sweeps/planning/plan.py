"""What a sweep will do and cost, before anything is spent. Pure: memory and devices are arguments."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from search_spaces.domains import Value
from search_spaces.space import SearchSpace
from sweeps.config import points, resource
from sweeps.config.model import SweepConfig
from sweeps.planning import advice, capacity, epochs, time_budget
from sweeps.planning.capacity import Machine
from sweeps.planning.lora_or_qlora import GpuAdvice
from sweeps.planning.number_words import counted
from sweeps.planning.outlook import Known, Outlook, may_train_all, most_steps, outlook
from trainables.contract import Device, Memory, Need
from trainables.learning_rates import warmup_steps

LEAST_UNEVEN = 0.01
"""Share of examples that one trial may have seen more than another at a rung, from which that is told."""


@dataclass(frozen=True)
class Plan:
    """The answer of `plan`."""

    trials: int
    points: tuple[int, ...]
    """Where a trial reports, in `unit`: the scheduler's rungs."""
    unit: resource.Unit
    """What rungs count: optimizer steps, or examples where the batch size is searched."""
    expected_steps: int
    worst_steps: int
    hosts: int
    slots_per_host: int | None
    """At most. None when the memory of the hosts, or the size of the model, is unknown here: each host decides."""
    slots: int | None
    """Of all hosts together; None as there."""
    device: Device
    place: str
    """Where the hosts are, in words: a plan may be for another machine than this one."""
    memory_bytes: int | None
    """Estimated memory of one host with these slots, of several GPUs on the fullest."""
    memory: Memory | None
    """`memory_bytes` by part."""
    disk_bytes: int | None
    """Estimated most room on disk: every trial's best adapter, and the snapshots of those that train or are parked."""
    warnings: tuple[str, ...]
    may_train_all: bool
    """At worst every trial is trained to the end; a rule that parks trials bounds that."""
    ends_alone: bool
    """Too few trials for one to be promoted to the last step by its rank: the best one goes on alone."""
    rows_per_trial: tuple[int, int] | None
    """Fewest and most rows that a trial trains on when it is not stopped early; None where there is no data."""
    outlook: Outlook
    """Trials at each point, tokens, evaluations, time."""
    gpus_per_host: int
    """0 on a CPU. Of several, each host spreads its base over all of them."""
    train_rows: int | None = None
    """Rows to train on; None when that is not known yet."""
    choices: tuple[GpuAdvice, ...] = ()
    """LoRA against QLoRA on GPUs of common sizes; empty when the model's sizes are unknown."""
    engine: str | None = None
    """What will compute the losses; None when it is known only once the base is loaded."""

    @property
    def epochs(self) -> tuple[float, float] | None:
        """`rows_per_trial` as parts of `train_rows`."""
        if self.rows_per_trial is None or self.train_rows is None:
            return None
        return self.rows_per_trial[0] / self.train_rows, self.rows_per_trial[1] / self.train_rows

    def as_json(self) -> dict[str, Any]:
        """Plain data, with the same names."""
        plain = {**asdict(self), "memory": self.memory and self.memory.model_dump(), "epochs": self.epochs}
        del plain["outlook"], plain["may_train_all"]
        return {**plain, **self.outlook.as_json()}


def plan(
    config: SweepConfig, space: SearchSpace, need: Need | None, machine: Machine, known: Known | None = None
) -> Plan:
    """The plan of a checked sweep.

    Args:
        need: the trainable's estimate for the largest specs of the space; None when the model's sizes are unknown.
    """
    known, trials = known or Known(), _trials(config, space)
    compared = resource.of(config)
    slots = capacity.slots_per_host(config, need, machine)
    total = capacity.slots_in_all(config, slots or 1, machine.hosts)
    seen = outlook(config, space, trials, (machine.hosts, slots or 1, machine.gpus), known)
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
        disk_bytes=None if need is None else capacity.disk_bytes(config, need, trials, total),
        may_train_all=may_train_all(config, trials, total),
        ends_alone=compared.scheduler.needs_tail(compared.total, trials),
        warnings=(),
        rows_per_trial=epochs.rows_per_trial(config, space) if config.data is not None else None,
        outlook=seen,
    )
    return replace(
        planned,
        warnings=tuple(
            _search_warnings(config, space, planned)
            + time_budget.warnings(config, seen, machine.hosts, machine.gpus)
            + advice.of_rslora(config, space)
            + advice.of_evaluation(config, seen, known.rows)
            + capacity.memory_warnings(config, machine, planned.memory_bytes)
            + capacity.disk_warnings(config, machine, need, trials, total)
        ),
    )


def _trials(config: SweepConfig, space: SearchSpace) -> int:
    """Different trials, as many as there are and the budget allows."""
    distinct = different(config, space)
    return config.budget.count if distinct is None else min(config.budget.count, distinct)


def different(config: SweepConfig, space: SearchSpace) -> int | None:
    """How many different trials there are; None when they do not run out."""
    distinct = config.searcher.size(space)
    if distinct is None:
        return None
    beginning = points.beginning(config, space)
    return distinct + len({points.seed(config.seed, point) for point in beginning if not space.contains(point)})


def _search_warnings(config: SweepConfig, space: SearchSpace, planned: Plan) -> list[str]:
    slots = planned.slots or planned.hosts
    warnings = []
    if config.scheduler.compares and len(planned.points) < 2:
        total, longer = f"budget.steps_per_trial {planned.points[0]}", "steps_per_trial"
        if planned.unit == "example":
            total = f"the {counted(planned.points[0], planned.unit)} of a trial"
            longer = "budget.examples_per_trial, or what is given in its place"
        warnings.append(
            f"scheduler.grace_steps reaches {total}: no trial can be stopped early; lower grace_steps or raise {longer}"
        )
    if config.scheduler.compares and len(planned.points) > 1:
        warnings += _warmup_warnings(config, space, resource.of(config).steps(config.training)[0])
    if config.scheduler.kind == "asha" and not config.scheduler.parks and slots >= planned.trials > 1:
        warnings.append(
            f"{slots} slots for {planned.trials} trials: all of them run at once, so early stopping has nothing to "
            "save; raise budget.trials, lower cluster.slots_per_host or set scheduler.variant=promote"
        )
    if "training.learning_rate" not in space.domains:
        warnings.append(
            "the space leaves training.learning_rate alone: it matters most, and the best value moves with the other "
            "fields; add training.learning_rate: {loguniform: [2.0e-5, 2.0e-3]}"
        )
    outside = points.outside(config.base, space) if config.searcher.start_with_default else {}
    if outside:
        values = ", ".join(f"{field} {_shown(value)}" for field, value in outside.items())
        warnings.append(
            f"t00 is the default configuration, which lies outside the space ({values}): it is trained and ranked with "
            "the others; search its values too, change them, or set searcher.start_with_default=false"
        )
    more_seen = resource.more_seen(config, space)
    if more_seen >= LEAST_UNEVEN:
        warnings.append(
            f"{' x '.join(resource.BATCH)}: batches of {', '.join(map(str, resource.batches(config, space)))} have no "
            f"small common multiple: trials ranked together have seen up to {more_seen:.0%} more examples than others; "
            "choose batches with a small common multiple, such as powers of two"
        )
    warnings += advice.of_points(config, space)
    count = config.budget.count
    if planned.trials < count:
        warnings.append(f"the space has {planned.trials} different trials, fewer than budget.trials {count}")
    elif config.searcher.kind == "grid" and (distinct := different(config, space) or 0) > count:
        warnings.append(
            f"searcher.kind grid: {distinct} different trials, more than budget.trials {count}: "
            f"{counted(distinct - count, 'trial')} would never be tried; set budget.trials={distinct}"
        )
    return warnings


def _warmup_warnings(config: SweepConfig, space: SearchSpace, first: int) -> list[str]:
    """Until the rate is full, trials differ by how fast it rises: at least half of the steps should come after that.

    Args:
        first: the step at which trials are first compared.
    """
    field, steps = "training.warmup_ratio", config.budget.steps_per_trial
    ratio = capacity.highest(space.domains[field]) if field in space.domains else config.training.warmup_ratio
    rising = warmup_steps(ratio, steps) - 1
    if 2 * rising <= first:
        return []
    most = math.floor(1000 * (first // 2 + 1) / steps) / 1000
    later = f"raise grace_steps to {2 * rising} or more, or " if 2 * rising < steps else ""
    return [
        f"scheduler.grace_steps {first}: the learning rate rises for {counted(rising, 'step')} ({field} {ratio:g} of "
        f"{steps}), so the first ranking compares how fast rates start; {later}lower warmup_ratio to {most:g}"
    ]


def _shown(value: Value) -> str:
    return ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
