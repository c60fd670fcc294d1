"""What a sweep will do and cost, before anything is spent. Pure: memory and devices are arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from search_spaces.domains import Domain, Value
from search_spaces.space import SearchSpace
from sweeps.config import points, resource
from sweeps.config.model import SweepConfig, size_bytes
from sweeps.config.uris import local_storage
from sweeps.planning import advice, epochs, time_budget
from sweeps.planning.lora_or_qlora import GpuAdvice
from sweeps.planning.number_words import counted
from sweeps.planning.outlook import Known, Outlook, may_train_all, most_steps, outlook, repeats
from sweeps.record.snapshots import KEPT
from trainables.contract import Device, Memory, Need
from trainables.learning_rates import warmup_steps
from trainables.specs import TrialSpec

DEVICES: Mapping[Device, str] = {"cpu": "CPU", "cuda": "GPU"}
LEAST_UNEVEN = 0.01
"""Share of examples that one trial may have seen more than another at a rung, from which that is told."""


@dataclass(frozen=True)
class Machine:
    """Where the sweep is planned for."""

    device: Device
    hosts: int
    free_bytes: int | None
    """Free memory of each host's device, of several GPUs on the fullest; None when it cannot be known here."""
    disk_bytes: int | None = None
    """Free room where the sweep's folder goes; None when it cannot be known."""
    place: str = "on this machine"
    """Where that is, in words."""
    unused: str | None = None
    """The cluster.gpu_memory that the sweep will not go by."""
    device_name: str | None = None
    """See `cluster.devices.name`, or a part of it; None when it is unknown."""
    threads: int | None = None
    """CPU threads that all hosts share; None when they hold GPUs, or it cannot be known here."""
    spread: int = 1
    """GPUs over which each host spreads its base, where it has any."""

    @property
    def gpus(self) -> int:
        """GPUs of each host; 0 on a CPU."""
        return self.spread if self.device == "cuda" else 0


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
    """None when the memory of the hosts, or the size of the model, is unknown here: each host decides."""
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
    slots = slots_per_host(config, need, machine)
    total = (slots or 1) * machine.hosts
    seen = outlook(config, space, trials, (machine.hosts, slots or 1, machine.gpus), known)
    again = repeats(config, trials)
    memory = need.memory(slots) if need is not None and slots is not None else None
    # A trial's next adapter, and its next snapshot, are there before the one that they replace goes.
    live = total * (need.adapter_bytes + (KEPT + 1) * need.snapshot_bytes) if need is not None else 0
    planned = Plan(
        trials=trials,
        points=compared.points,
        unit=compared.unit,
        expected_steps=round(seen.steps.expected),
        worst_steps=most_steps(config, space, trials, total),
        hosts=machine.hosts,
        gpus_per_host=machine.gpus,
        slots_per_host=slots,
        device=machine.device,
        place=machine.place,
        memory_bytes=None if memory is None else memory.total,
        memory=memory,
        disk_bytes=None
        if need is None
        else (trials + again) * need.adapter_bytes + trials * _parked_bytes(config, need) + live,
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
            + _memory_warnings(config, planned, machine)
            + _disk_warnings(config, planned, need, machine)
        ),
    )


def _parked_bytes(config: SweepConfig, need: Need) -> int:
    """What a trial keeps on disk while it is parked, beside its best adapter."""
    return KEPT * need.snapshot_bytes if config.scheduler.parks else 0


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


def at_most(config: SweepConfig) -> int:
    """How many slots all hosts together have at most when slots_per_host is auto.

    A third of the trials: early stopping compares a trial with those that came before it, so most must come later.
    """
    return max(1, config.budget.count // 3)


def slots_per_host(config: SweepConfig, need: Need | None, machine: Machine) -> int | None:
    """Slots that the sweep will have on each host, as far as it can be known here."""
    asked = config.cluster.slots_per_host
    if asked != "auto":
        return asked
    if need is None or machine.free_bytes is None:
        return None
    return need.slots(machine.free_bytes, max(1, at_most(config) // machine.hosts))


def largest(config: SweepConfig, space: SearchSpace) -> tuple[TrialSpec, ...]:
    """The specs that need the most memory: highest rank, batch, dropout with any modules; points outside the space."""
    choices: dict[str, Sequence[Value]] = {}
    for field in ("adapter.r", "training.batch_size", "adapter.lora_dropout"):
        if field in space.domains:
            choices[field] = [highest(space.domains[field])]
    if "adapter.target_modules" in space.domains:
        choices["adapter.target_modules"] = space.domains["adapter.target_modules"].values() or ()
    combinations = product(*choices.values())
    specs = [points.apply(config.base, dict(zip(choices, values, strict=True)), 0) for values in combinations]
    own = [points.completed(config.base, space, point) for point in config.searcher.points]
    specs += [points.apply(config.base, point, 0) for point in own if not space.contains(point)]
    return (*specs, config.base) if config.searcher.start_with_default else tuple(specs)


def highest(domain: Domain) -> float:
    """The highest value of a domain of numbers, as it is written: a whole number stays one."""
    return max(value for value in domain.extremes() if isinstance(value, int | float))


def _search_warnings(config: SweepConfig, space: SearchSpace, planned: Plan) -> list[str]:
    slots = (planned.slots_per_host or 1) * planned.hosts
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
    ratio = highest(space.domains[field]) if field in space.domains else config.training.warmup_ratio
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


def _memory_warnings(config: SweepConfig, planned: Plan, machine: Machine) -> list[str]:
    model, memory = config.model, planned.memory_bytes
    warnings = []
    if machine.unused is not None:
        warnings.append(
            f"cluster.gpu_memory {machine.unused} is not used: the sweep runs on this machine's "
            f"{DEVICES[machine.device]}, as cluster.profile=local does; GPUs elsewhere are joined with "
            "cluster.profile=attached"
        )
    if model is not None and model.facts is not None and model.own_facts is None:
        warnings.append(
            f"model.facts are of {model.facts.of}, not of model.source {model.source}: they are not used; give those "
            "of this model, with of: its source, or leave them out"
        )
    if machine.threads is not None and machine.hosts > machine.threads:
        warnings.append(
            f"cluster.hosts {machine.hosts} on this machine's CPU of {counted(machine.threads, 'thread')}: hosts share "
            "them, and each loads the base for itself, so more hosts than threads make nothing faster; lower "
            f"cluster.hosts to {machine.threads}"
        )
    if memory is None and model is not None:
        warnings.append(
            f"memory is not known here: give model.facts for {model.source} and cluster.gpu_memory, or let each host "
            "find out"
        )
    if memory is not None and machine.free_bytes is not None and memory > machine.free_bytes:
        warnings.append(
            f"about {memory / 1e9:.1f} GB needed per host, {machine.free_bytes / 1e9:.1f} GB free: lower "
            "cluster.slots_per_host, training.batch_size or data.max_length"
        )
    return warnings


def _disk_warnings(config: SweepConfig, planned: Plan, need: Need | None, machine: Machine) -> list[str]:
    if need is None or planned.disk_bytes is None:
        return []
    warnings = []
    again = repeats(config, planned.trials)
    # Of each parked trial one snapshot stays until repeats need its room. What replaces another comes before that goes.
    parked = (planned.trials + 1) * _parked_bytes(config, need) // KEPT
    lasting = (planned.trials + 1) * need.adapter_bytes + max(parked, again * need.adapter_bytes)
    if config.budget.disk is not None and lasting > size_bytes(config.budget.disk):
        what = "adapters, and snapshots while they are parked," if config.scheduler.parks else "adapters"
        trials = f"{planned.trials} trials" + (f" and {counted(again, 'repeat')}" if again else "")
        warnings.append(
            f"budget.disk {config.budget.disk}: the largest {what} of {trials}, and one that replaces another, take "
            f"{lasting / 1e9:.2f} GB, and the sweep ends when there is no room for another"
        )
    wanted = (
        planned.disk_bytes if config.budget.disk is None else min(planned.disk_bytes, size_bytes(config.budget.disk))
    )
    if machine.disk_bytes is not None and wanted > machine.disk_bytes:
        warnings.append(
            f"storage: up to {wanted / 1e9:.1f} GB of adapters and snapshots, {machine.disk_bytes / 1e9:.1f} GB free "
            f"in {local_storage(config.storage)}: make room, name another storage, or set budget.disk"
        )
    return warnings
