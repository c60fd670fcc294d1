"""The plan of a sweep on the machine at hand."""

from __future__ import annotations

from cluster import devices
from sweeps import plan
from sweeps.config import SweepConfig, size_bytes
from sweeps.load import Sweep
from trainables import registry


def plan_here(sweep: Sweep) -> plan.Plan:
    """The plan, with this machine's memory where the sweep runs here and the recipe's where it does not."""
    machine = _machine(sweep.config)
    need = registry.find(sweep.config.trainable).need(
        sweep.config.base, plan.largest(sweep.config, sweep.space), machine.device
    )
    return plan.plan(sweep.config, sweep.space, need, machine)


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
