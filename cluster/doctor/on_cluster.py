"""Looks at each node of a Ray cluster: python -m cluster.doctor.on_cluster ADDRESS, the site on standard input.

All work on the nodes ends with this process, because it is one Ray job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import connect, timeouts
from cluster.doctor import examine
from cluster.doctor.contract import DRIVER, CheckResult, Site
from cluster.errors import ClusterError
from trainables.asked_process import question
from trainables.inputs.legible import legible

OFF_SECONDS, FAR_OFF_SECONDS = 2.0, 300.0
"""Differences of clocks: the first is warned of, the second fails. Object stores refuse requests that were signed 15
minutes off, Kerberos those 5 minutes off."""
_NOT_THERE = (
    "install this project there in Ray's Python as on the driver (docs/cluster.md), and remove other packages that are "
    "imported as sweeps or cluster; if the node is overloaded, try again"
)


def _look(names: Sequence[str], site: str) -> list[dict[str, Any]]:
    """Runs checks on the node; returns plain values, so that no object of another version is unpickled."""
    return [asdict(each) for each in examine.answers(Site.model_validate_json(site), names)]


def _time() -> float:
    return time.time()


_LOOK, _TIME = (ray.remote(num_cpus=0, max_retries=0)(each) for each in (_look, _time))


def main() -> None:
    """Connects, looks and tells; see the module."""
    site, address = Site.model_validate_json(question()), sys.argv[1]
    if not connect.is_there(address):
        examine.tell(examine.no_connection(f"{address}: nothing listens there"))
        return
    try:
        with connect.connected(address, "qsweep-doctor"):
            for answer in _on_nodes(site, address):
                examine.tell(answer)
    except ClusterError as error:
        examine.tell(examine.no_connection(str(error)))


def _on_nodes(site: Site, address: str) -> Iterator[CheckResult]:
    free = ray._private.state.available_resources_per_node()
    alive = [node for node in ray.nodes() if node["Alive"]]
    gpus = [float(node.get("Resources", {}).get("GPU", 0)) for node in alive]
    yield connected(gpus, address, site.needs.gpus_per_host)
    began, on_gpus = time.monotonic(), bool(site.needs.gpus_per_host) and max(gpus, default=0) >= 1
    nodes = []
    for name, node, count in zip(names_of(alive), alive, gpus, strict=True):
        there = site.model_copy(update={"node": name, "declared_gpus": count})
        names = checks_on(examine.chosen(site, "nodes"), trains=count >= 1 or not on_gpus)
        nodes.append(NodeChecks(there, node["NodeID"], int(free.get(node["NodeID"], {}).get("GPU", 0)), names))
    for each in nodes:
        yield from each.answers(began + timeouts.DOCTOR_NODE_SECONDS * site.patience)
    for each in nodes:
        yield from each.gpu_answers(began + timeouts.DOCTOR_GPU_SECONDS * site.patience)


class NodeChecks:
    """A node, with its running checks."""

    def __init__(self, site: Site, node_id: str, free_gpus: int, names: Sequence[str]) -> None:
        """Begins the checks `names`."""
        self._site, self._free, asked = site, free_gpus, site.model_dump_json()
        self._there = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}
        has_gpus = (site.declared_gpus or 0) >= 1
        self._on_gpus = [name for name in names if examine.CHECKS[name].takes_gpu and has_gpus]
        plain = [name for name in names if name not in self._on_gpus]
        self._plain = _LOOK.options(**self._there).remote(plain, asked)
        self._gpu = None
        if self._on_gpus and free_gpus:
            self._gpu = _LOOK.options(num_gpus=free_gpus, **self._there).remote(self._on_gpus, asked)

    def answers(self, deadline: float) -> Iterator[CheckResult]:
        """Yields the answers of the checks that take no GPU, and of the clock."""
        try:
            yield from _result(self._plain, deadline)
        except Exception as error:  # the answer is why the code does not run there
            yield CheckResult("fail", _reason(error), _NOT_THERE).of(examine.CONNECTION, self._site.node)
        else:
            yield self._clock().of("clock", self._site.node)

    def gpu_answers(self, deadline: float) -> Iterator[CheckResult]:
        """Yields the answers of the checks on the node's GPUs. Does not wait for GPUs that are in use."""
        why = "every GPU is busy: not looked at"
        try:
            if self._gpu is not None:
                yield from _result(self._gpu, deadline)
                return
        except ray.exceptions.GetTimeoutError:
            why = f"its {self._free} free GPUs were taken meanwhile: not looked at"
        except Exception as error:
            why = _reason(error)
        yield from (CheckResult("unknown", why).of(name, self._site.node) for name in self._on_gpus)

    def _clock(self) -> CheckResult:
        """Compares the node's clock with this machine's."""
        before = time.time()
        try:
            there = ray.get(_TIME.options(**self._there).remote(), timeout=timeouts.DOCTOR_CLOCK_SECONDS)
        except Exception as error:
            return CheckResult("unknown", _reason(error))
        return clock(there - time.time(), there - before)


def _result(asked: ray.ObjectRef, deadline: float) -> list[CheckResult]:
    try:
        found = ray.get(asked, timeout=max(0.0, deadline - time.monotonic()))
    except ray.exceptions.GetTimeoutError:
        ray.cancel(asked, force=True)
        raise
    return [CheckResult(**each) for each in found]


def _reason(error: Exception) -> str:
    """Returns the last line of an error: Ray puts the node's traceback before it."""
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return "it has not answered in time"
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return legible(lines[-1] if lines else type(error).__name__, 300)


def clock(least: float, most: float) -> CheckResult:
    """Warns if a node's clock certainly differs from the driver's by seconds, and fails if by minutes.

    The node's time was read between two readings on the driver, and is between `least` and `most` seconds ahead.
    """
    certain, side = max(0.0, least, -most), "ahead" if least > 0 else "behind"
    seen = f"{side} by at least {certain:.1f} s" if certain else "agrees with the driver's"
    if certain <= OFF_SECONDS:
        return CheckResult("ok", f"{seen} (within {max(abs(least), abs(most)):.1f} s)")
    mend = "start a time service there (chrony, systemd-timesyncd): timedatectl set-ntp true"
    return CheckResult("fail" if certain > FAR_OFF_SECONDS else "warn", seen, mend)


def connected(gpus: Sequence[float], address: str, gpus_per_host: int) -> CheckResult:
    """Says what the cluster has (`gpus` of each node); fails if no machine with GPUs has enough of them for a host."""
    seen = f"{len(gpus)} {'node' if len(gpus) == 1 else 'nodes'} with {sum(gpus):g} GPUs at {address}"
    if gpus_per_host <= 1 or any(count >= gpus_per_host for count in gpus):
        return CheckResult("ok", seen).of(examine.CONNECTION, DRIVER)
    # The autoscaler of a cluster without GPUs may bring machines when the sweep asks for them.
    return CheckResult(
        "fail" if any(gpus) else "warn",
        f"{seen}; a host takes {gpus_per_host} GPUs of one machine, and none has so many: the sweep waits for one that "
        "has",
        "lower cluster.gpus_per_host, or let such a machine join",
    ).of(examine.CONNECTION, DRIVER)


def checks_on(names: Sequence[str], trains: bool) -> list[str]:
    """Returns the checks of a node. `trains` is False for a node without GPUs in a cluster with GPUs."""
    return [name for name in names if trains or examine.CHECKS[name].where == "both"]


def names_of(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the addresses of nodes, with the beginning of the id if several nodes have one address."""
    addresses = [str(node["NodeManagerAddress"]) for node in nodes]
    return [
        address if addresses.count(address) == 1 else f"{address}#{str(node['NodeID'])[:6]}"
        for address, node in zip(addresses, nodes, strict=True)
    ]


if __name__ == "__main__":
    main()
