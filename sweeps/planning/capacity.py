"""Counts slots, memory and checkpoints of hosts and the disk, and warns where there is too little. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from search_spaces.domains import Domain, Value
from search_spaces.space import SearchSpace
from sweeps.config import points
from sweeps.config.model import SweepConfig, size_bytes
from sweeps.config.number_words import counted
from sweeps.config.uris import local_storage
from sweeps.record.snapshots import KEPT
from trainables.contract import Device, Need
from trainables.specs import TrialSpec

DEVICES: Mapping[Device, str] = {"cpu": "CPU", "cuda": "GPU"}


@dataclass(frozen=True)
class Machine:
    """The hosts for which a sweep is planned."""

    device: Device
    hosts: int
    free_bytes: int | None
    """Memory to plan with on each host's device, or on the fullest of its GPUs; None if unknown here."""
    disk_bytes: int | None = None
    """Free disk space at the sweep's folder; None if unknown."""
    place: str = "on this machine"
    unused: str | None = None
    """Values of `cluster.gpu` and `cluster.gpu_memory` that the sweep ignores."""
    device_name: str | None = None
    """A name by `cluster.devices.name`, or a part of one; None if unknown."""
    threads: int | None = None
    """CPU threads that all hosts share; None if hosts have GPUs, or if unknown here."""
    spread: int = 1
    """GPUs over which each host with GPUs spreads its base."""
    lacks_bfloat16: bool = False
    """Whether `compute_dtype: auto` is float32 although hosts have GPUs."""

    @property
    def gpus(self) -> int:
        """Returns the GPUs of each host; 0 on a CPU."""
        return self.spread if self.device == "cuda" else 0


def at_most(config: SweepConfig) -> int:
    """Returns the maximum slots of all hosts together, if slots_per_host is auto. Each host has at least one slot.

    A scheduler that parks trials, or does not compare them, gets a slot for every trial: none is judged too early. A
    scheduler that stops a trial compares it with the trials before it, so most must come later: a third gets slots.
    """
    stops = config.scheduler.compares and not config.scheduler.parks
    return max(1, config.budget.count // 3) if stops else config.budget.count


def slots_per_host(config: SweepConfig, need: Need | None, machine: Machine) -> int | None:
    """Returns the maximum slots of each host; None if unknown here. See also `slots_in_all`."""
    asked = config.cluster.slots_per_host
    if asked != "auto":
        return asked
    if need is None or machine.free_bytes is None:
        return None
    return need.slots(machine.free_bytes, max(1, math.ceil(at_most(config) / machine.hosts)))


def slots_in_all(config: SweepConfig, slots: int, hosts: int) -> int:
    """Returns the slots of all hosts together; each has at most `slots`. Two hosts that share 9 have 4 and 5."""
    every = slots * hosts
    return every if config.cluster.slots_per_host != "auto" else min(every, max(hosts, at_most(config)))


def largest(config: SweepConfig, space: SearchSpace) -> tuple[TrialSpec, ...]:
    """Returns the specs that may need the most memory.

    They have the highest rank, batch size and dropout, with each choice of target modules. Points outside the space and
    the default configuration are added.
    """
    choices: dict[str, Sequence[Value]] = {}
    for field in ("adapter.r", "training.batch_size", "adapter.lora_dropout"):
        if field in space.domains:
            choices[field] = [highest(space.domains[field])]
    if "adapter.target_modules" in space.domains:
        choices["adapter.target_modules"] = space.domains["adapter.target_modules"].values() or ()
    if "adapter.use_dora" in space.domains:
        choices["adapter.use_dora"] = [True in (space.domains["adapter.use_dora"].values() or ())]
    combinations = product(*choices.values())
    specs = [points.apply(config.base, dict(zip(choices, values, strict=True)), 0) for values in combinations]
    own = [points.completed(config.base, space, point) for point in config.searcher.points]
    specs += [points.apply(config.base, point, 0) for point in own if not space.contains(point)]
    return (*specs, config.base) if config.searcher.start_with_default else tuple(specs)


def highest(domain: Domain) -> float:
    """Returns the highest value of a domain of numbers; an integer stays an integer."""
    return max(value for value in domain.extremes() if isinstance(value, int | float))


def disk_bytes(config: SweepConfig, need: Need, trials: int, slots: int) -> int:
    """Returns the maximum bytes of the checkpoints of `trials` trials; `slots` of them train at once."""
    # A trial's new adapter or snapshot is written before the old one is deleted.
    live = slots * (need.adapter_bytes + (KEPT + 1) * need.snapshot_bytes)
    return (
        (trials + config.searcher.most_repeats(trials)) * need.adapter_bytes
        + trials * _parked_bytes(config, need)
        + live
    )


def _parked_bytes(config: SweepConfig, need: Need) -> int:
    return KEPT * need.snapshot_bytes if config.scheduler.parks else 0


def memory_warnings(config: SweepConfig, machine: Machine, need: Need | None, memory: int | None) -> list[str]:
    """Warns where `memory`, the bytes of a host, is short, unknown, or not as the sweep file describes it."""
    model = config.model
    warnings = []
    if machine.unused is not None:
        warnings.append(
            f"cluster.gpu and cluster.gpu_memory ({machine.unused}) are not used: the sweep runs on this machine's "
            f"{DEVICES[machine.device]}, as cluster.profile=local does; GPUs elsewhere are joined with "
            "cluster.profile=attached"
        )
    if model is not None and model.facts is not None and model.own_facts is None:
        warnings.append(
            f"model.facts are of {model.facts.of}, not of model.source {model.source}: they are not used; give those "
            "of this model, with of: its source, or leave them out"
        )
    named, gpu = config.quantization.compute_dtype, machine.device_name
    if model is not None and machine.lacks_bfloat16 and (named == "auto" or (named == "bfloat16" and gpu is not None)):
        mend = (
            "set float32" if named != "auto" else "planned in float32" if gpu else "bfloat16 plans for one that has it"
        )
        of = gpu or f"planned in float32, since a common GPU of {config.cluster.gpu_memory}"
        warnings.append(f"quantization.compute_dtype {named}: {of} has no bfloat16: {mend}")
    if machine.threads is not None and machine.hosts > machine.threads:
        warnings.append(
            f"cluster.hosts {machine.hosts} on this machine's CPU of {counted(machine.threads, 'thread')}: hosts share "
            "them, and each loads the base for itself, so more hosts than threads make nothing faster; lower "
            f"cluster.hosts to {machine.threads}"
        )
    if memory is None and model is not None:
        lacking = [] if need is not None else [f"model.facts for {model.source}"]
        lacking += ["cluster.gpu or cluster.gpu_memory"] if machine.free_bytes is None else []
        warnings.append(f"memory is not known here: give {' and '.join(lacking)}, or let each host find out")
    if memory is not None and machine.free_bytes is not None and memory > machine.free_bytes:
        warnings.append(
            f"about {memory / 1e9:.1f} GB needed per host, {machine.free_bytes / 1e9:.1f} GB free: lower "
            "cluster.slots_per_host, training.batch_size or data.max_length, or take a larger cluster.gpu or more of "
            "cluster.gpus_per_host"
        )
    return warnings


def disk_warnings(config: SweepConfig, machine: Machine, need: Need | None, trials: int, slots: int) -> list[str]:
    """Warns where `budget.disk` or the disk is too small for `trials` trials; see `disk_bytes`."""
    if need is None:
        return []
    warnings = []
    again, most = config.searcher.most_repeats(trials), disk_bytes(config, need, trials, slots)
    # Each parked trial keeps one snapshot until repeats need its room. A new adapter is written before the old one is
    # deleted.
    parked = (trials + 1) * _parked_bytes(config, need) // KEPT
    lasting = (trials + 1) * need.adapter_bytes + max(parked, again * need.adapter_bytes)
    if config.budget.disk is not None and lasting > size_bytes(config.budget.disk):
        what = "adapters, and snapshots while they are parked," if config.scheduler.parks else "adapters"
        several = f"{trials} trials" + (f" and {counted(again, 'repeat')}" if again else "")
        warnings.append(
            f"budget.disk {config.budget.disk}: the largest {what} of {several}, and one that replaces another, take "
            f"{lasting / 1e9:.2f} GB, and the sweep ends when there is no room for another"
        )
    wanted = most if config.budget.disk is None else min(most, size_bytes(config.budget.disk))
    if machine.disk_bytes is not None and wanted > machine.disk_bytes:
        warnings.append(
            f"storage: up to {wanted / 1e9:.1f} GB of adapters and snapshots, {machine.disk_bytes / 1e9:.1f} GB free "
            f"in {local_storage(config.storage)}: make room, name another storage, or set budget.disk"
        )
    return warnings
