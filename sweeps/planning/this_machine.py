"""The plan of a sweep on the machine at hand."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

from cluster import devices
from sweeps.config.load import Sweep
from sweeps.config.model import SweepConfig, size_bytes
from sweeps.errors import ConfigError
from sweeps.planning import plan, rate_store
from trainables import registry
from trainables.contract import LookedUp, Need
from trainables.errors import NotTrainable


def look_up(sweep: Sweep) -> list[str]:
    """Asks the network what only it can say, before anything is started; returns what is to be told.

    Raises:
        ConfigError: a model or a data set is not there, may not be read, or cannot be reached from here.
    """
    config = sweep.config
    trainable = registry.find(config.trainable)
    if not hasattr(trainable, "look_up"):
        return []
    with registry.answering(f"trainable: {config.trainable}: its look_up"):
        found: LookedUp = trainable.look_up(config.base, devices.cache())
    runs_here = (config.cluster.address or "local") == "local"
    if wrong := [*found.problems, *(found.unreachable if runs_here else ())]:
        raise ConfigError(wrong)
    elsewhere = [f"{line}; the nodes of the Ray cluster may reach it" for line in found.unreachable]
    return [*elsewhere, *found.notices]


def plan_here(sweep: Sweep, to_launch: bool = False) -> plan.Plan:
    """The plan, with this machine's memory where the sweep runs here, and with cluster.gpu_memory where that is given.

    Args:
        sweep: what is to run.
        to_launch: it starts now, so a sweep that runs here is planned for the device that is here.

    Raises:
        ConfigError: not one adapter fits into budget.disk.
    """
    machine = replace(_machine(sweep.config, to_launch), disk_bytes=_free_disk(Path(sweep.config.storage)))
    trainable = registry.find(sweep.config.trainable)
    shape = rate_store.read(devices.cache()).shape(sweep.config)
    try:
        largest = plan.largest(sweep.config, sweep.space)
        need = registry.need(trainable, sweep.config.base, largest, machine.device, shape)
    except NotTrainable as error:
        raise NotTrainable(f"trainable: {sweep.config.trainable}: {error}") from error
    _check_disk(sweep.config, need)
    planned = plan.plan(sweep.config, sweep.space, need, machine)
    if to_launch:
        # Of the data a launch speaks once all rows are ready.
        return replace(planned, rows_per_trial=None)
    warnings = (*planned.warnings, *sweep.preview.warnings)
    return replace(planned, train_rows=sweep.preview.train_rows, warnings=warnings)


def _check_disk(config: SweepConfig, need: Need | None) -> None:
    budget = config.budget.disk
    if budget is not None and need is not None and need.adapter_bytes > size_bytes(budget):
        raise ConfigError(
            [
                f"budget.disk: {budget!r} does not hold one adapter of {need.adapter_bytes / 1e6:.0f} MB: raise it, or "
                "lower the highest adapter.r"
            ]
        )


def _free_disk(storage: Path) -> int | None:
    """Free room where `storage` is, or will be made."""
    there = next((path for path in (storage, *storage.parents) if path.is_dir()), None)
    return shutil.disk_usage(there).free if there is not None else None


def _machine(config: SweepConfig, to_launch: bool) -> plan.Machine:
    memory, hosts = config.cluster.gpu_memory, config.cluster.hosts
    gpu_bytes = None if memory is None else _share(size_bytes(memory))
    if (config.cluster.address or "local") != "local":
        place = "on a Ray cluster" if memory is None else f"on a Ray cluster with GPUs of {memory}"
        return plan.Machine("cuda", 1 if hosts == "auto" else hosts, gpu_bytes, place=place)
    if memory is None or to_launch:
        return replace(_this_machine(hosts), unused=memory)
    place = f"on a GPU of {memory}, not on this machine"
    return plan.Machine("cuda", 1 if hosts == "auto" else hosts, gpu_bytes, place=place)


def _this_machine(hosts: int | Literal["auto"]) -> plan.Machine:
    gpus = devices.gpus()
    if gpus:
        return plan.Machine("cuda", gpus if hosts == "auto" else hosts, _share(devices.free_bytes("cuda")))
    hosts = 1 if hosts == "auto" else hosts
    return plan.Machine("cpu", hosts, _share(devices.free_bytes("cpu")) // hosts)


def _share(free_bytes: int) -> int:
    """What hosts plan their slots into."""
    return int(free_bytes * devices.MEMORY_SHARE)
