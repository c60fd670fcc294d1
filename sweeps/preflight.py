"""The plan of a sweep on the machine at hand."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from cluster import devices
from sweeps import plan
from sweeps.config import SweepConfig, size_bytes
from sweeps.errors import ConfigError
from sweeps.load import Sweep
from trainables import registry
from trainables.contract import Need


def plan_here(sweep: Sweep) -> plan.Plan:
    """The plan, with this machine's memory where the sweep runs here and the recipe's where it does not.

    Raises:
        ConfigError: not one adapter fits into budget.disk.
    """
    machine = replace(_machine(sweep.config), disk_bytes=_free_disk(Path(sweep.config.storage)))
    need = registry.find(sweep.config.trainable).need(
        sweep.config.base, plan.largest(sweep.config, sweep.space), machine.device
    )
    _check_disk(sweep.config, need)
    return plan.plan(sweep.config, sweep.space, need, machine)


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


def _machine(config: SweepConfig) -> plan.Machine:
    asked = config.cluster.hosts
    if config.cluster.gpu_memory is not None:
        return plan.Machine("cuda", 1 if asked == "auto" else asked, _share(size_bytes(config.cluster.gpu_memory)))
    if (config.cluster.address or "local") != "local":
        return plan.Machine("cuda", 1 if asked == "auto" else asked, None)
    gpus = devices.gpus()
    if gpus:
        return plan.Machine("cuda", gpus if asked == "auto" else asked, _share(devices.free_bytes("cuda")))
    hosts = 1 if asked == "auto" else asked
    return plan.Machine("cpu", hosts, _share(devices.free_bytes("cpu")) // hosts)


def _share(free_bytes: int) -> int:
    """What hosts plan their slots into."""
    return int(free_bytes * devices.MEMORY_SHARE)
