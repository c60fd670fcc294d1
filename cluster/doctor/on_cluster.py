"""Looks at each node of a Ray cluster: python -m cluster.doctor.on_cluster, the question on standard input.

Each line of the output is a `Finding`. All work on the nodes ends with this process, because it is one Ray job.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import connect, timeouts
from cluster.doctor import examine, looking
from cluster.doctor.contract import DRIVER, Diagnosis, Finding, Site, fail, ok, warn
from cluster.doctor.looking import CHECKS, Look
from cluster.doctor.machine import judge_clock
from cluster.errors import ClusterError
from trainables import asked_process
from trainables.inputs.legible import legible

CLOCK_ROUNDS = 3
_NOT_THERE = (
    "install this project there in Ray's Python as on the driver (docs/cluster.md), and remove other packages that are "
    "imported as sweeps or cluster; if the node is overloaded, try again"
)


def _look(names: Sequence[str], site: str) -> dict[str, str]:
    """Runs checks on the node; returns JSON, so that no object of another version is unpickled."""
    return {name: look.model_dump_json() for name, look in looking.look_at(Site.model_validate_json(site), names)}


def _time() -> float:
    return time.time()


_LOOK, _TIME = (ray.remote(num_cpus=0, max_retries=0)(each) for each in (_look, _time))


def main() -> None:
    """Connects, looks and prints; see the module."""
    question = examine.Question.model_validate_json(asked_process.question())
    for finding in findings(question):
        print(json.dumps(asdict(finding)), flush=True)


def findings(question: examine.Question) -> Iterator[Finding]:
    """Yields the findings on the cluster and on each of its nodes."""
    if not connect.is_there(question.address):
        yield examine.no_connection(f"{question.address}: nothing listens there")
        return
    try:
        with connect.connected(question.address, "qsweep-doctor"):
            yield from _of_nodes(question)
    except ClusterError as error:
        yield examine.no_connection(str(error))


def _of_nodes(question: examine.Question) -> Iterator[Finding]:
    free = ray._private.state.available_resources_per_node()
    alive = [node for node in ray.nodes() if node["Alive"]]
    gpus = [float(node.get("Resources", {}).get("GPU", 0)) for node in alive]
    yield connected(gpus, question.address, question.site.needs.gpus_per_host)
    began, patience = time.monotonic(), question.site.patience
    on_gpus = bool(question.site.needs.gpus_per_host) and max(gpus, default=0) >= 1
    nodes = []
    for name, node, count in zip(names_of(alive), alive, gpus, strict=True):
        names = checks_on(looking.chosen("nodes", question.site), trains=count >= 1 or not on_gpus)
        free_gpus = int(free.get(node["NodeID"], {}).get("GPU", 0))
        nodes.append(Node(question.site.on_node(name, count), node["NodeID"], free_gpus, names))
    for node in nodes:
        try:
            looks = node.looks(began + timeouts.DOCTOR_NODE_SECONDS * patience)
        except Exception as error:  # the finding is why the code does not run there
            yield fail(_reason(error), _NOT_THERE).of(examine.CONNECTION, node.site.node)
            continue
        for name, look in looks.items():
            yield looking.finding(name, look, node.site, question.versions if name == "versions" else {})
        yield node.clock().of("clock", node.site.node)
    for node in nodes:
        for name, look in node.gpu_looks(began + timeouts.DOCTOR_GPU_SECONDS * patience).items():
            yield looking.finding(name, look, node.site)


class Node:
    """A node, with its running checks."""

    def __init__(self, site: Site, node_id: str, free_gpus: int, names: Sequence[str]) -> None:
        """Begins the checks `names`."""
        self.site = site
        self._free = free_gpus
        self._there = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}
        self._on_gpus = [name for name in names if CHECKS[name].takes_gpu and (site.declared_gpus or 0) >= 1]
        plain, asked = [name for name in names if name not in self._on_gpus], site.model_dump_json()
        self._plain = _LOOK.options(**self._there).remote(plain, asked)
        self._gpu = None
        if self._on_gpus and free_gpus:
            self._gpu = _LOOK.options(num_gpus=free_gpus, **self._there).remote(self._on_gpus, asked)

    def looks(self, deadline: float) -> dict[str, Look]:
        """Returns the looks of the checks that take no GPU. Raises the error that keeps them from running."""
        return _answer(self._plain, deadline)

    def gpu_looks(self, deadline: float) -> dict[str, Look]:
        """Returns the looks of the checks on the node's GPUs. Does not wait for GPUs that are in use."""
        why = "every GPU is busy: not looked at"
        if self._gpu is not None:
            try:
                return _answer(self._gpu, deadline)
            except ray.exceptions.GetTimeoutError:
                why = f"its {self._free} free GPUs were taken meanwhile: not looked at"
            except Exception as error:
                why = _reason(error)
        return {name: Look(problem=Diagnosis("unknown", why)) for name in self._on_gpus}

    def clock(self) -> Diagnosis:
        """Compares the node's clock with this machine's, by the quickest of `CLOCK_ROUNDS` questions."""
        bounds = []
        for _ in range(CLOCK_ROUNDS):
            before = time.time()
            try:
                there = ray.get(_TIME.options(**self._there).remote(), timeout=timeouts.DOCTOR_CLOCK_SECONDS)
            except Exception as error:
                return Diagnosis("unknown", _reason(error))
            bounds.append((there - time.time(), there - before))
        return judge_clock(*min(bounds, key=lambda each: each[1] - each[0]))


def _answer(asked: ray.ObjectRef, deadline: float) -> dict[str, Look]:
    try:
        found = ray.get(asked, timeout=max(0.0, deadline - time.monotonic()))
    except ray.exceptions.GetTimeoutError:
        ray.cancel(asked, force=True)
        raise
    return {name: Look.model_validate_json(text) for name, text in found.items()}


def _reason(error: Exception) -> str:
    """Returns the last line of an error: Ray puts the node's traceback before it."""
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return "it has not answered in time"
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return legible(lines[-1] if lines else type(error).__name__, 300)


def connected(gpus: Sequence[float], address: str, gpus_per_host: int) -> Finding:
    """Says what the cluster has (`gpus` of each node); fails if no machine with GPUs has enough of them for a host."""
    seen = f"{len(gpus)} {'node' if len(gpus) == 1 else 'nodes'} with {sum(gpus):g} GPUs at {address}"
    if gpus_per_host <= 1 or any(count >= gpus_per_host for count in gpus):
        return ok(seen).of(examine.CONNECTION, DRIVER)
    # The autoscaler of a cluster without GPUs may bring machines when the sweep asks for them.
    return (fail if any(gpus) else warn)(
        f"{seen}; a host takes {gpus_per_host} GPUs of one machine, and none has so many: the sweep waits for one that "
        "has",
        "lower cluster.gpus_per_host, or let such a machine join",
    ).of(examine.CONNECTION, DRIVER)


def checks_on(names: Sequence[str], trains: bool) -> tuple[str, ...]:
    """Returns the checks of a node. `trains` is False for a node without GPUs in a cluster with GPUs."""
    return tuple(name for name in names if trains or CHECKS[name].where == "both")


def names_of(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the addresses of nodes, with the beginning of the id if several nodes have one address."""
    addresses = [str(node["NodeManagerAddress"]) for node in nodes]
    return [
        address if addresses.count(address) == 1 else f"{address}#{str(node['NodeID'])[:6]}"
        for address, node in zip(addresses, nodes, strict=True)
    ]


if __name__ == "__main__":
    main()
