"""Looks at each node of a Ray cluster: python -m cluster.doctor.on_cluster, the question on standard input.

In a process of its own, because connecting to Ray may hang for minutes (a driver that is on no node of the cluster).
Each line of the output is a `Line`. What runs on the nodes ends with this process: it is one Ray job.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import connect
from cluster.doctor import contract, looking, processes
from cluster.doctor.contract import Asked
from cluster.doctor.looking import Look
from cluster.doctor.messages import Line, NodeFacts, Question
from cluster.errors import ClusterError
from trainables.inputs.legible import legible

LOOK_SECONDS = 240.0
"""How long the nodes may take for all checks but those on GPUs. A busy one may need a minute to start a process."""
GPU_SECONDS = 180.0
"""How long to wait for GPUs that were free, and for what is tried on them."""
CLOCK_SECONDS = 15.0
CLOCK_ROUNDS = 3


def _look(names: Sequence[str], asked: str) -> dict[str, str]:
    """Runs checks on the node; strings, so that nothing of another version is unpickled."""
    found = looking.look_all(names, Asked.model_validate_json(asked))
    return {name: each.model_dump_json() for name, each in found}


def _time() -> float:
    return time.time()


_LOOK, _TIME = (ray.remote(num_cpus=0, max_retries=0)(each) for each in (_look, _time))


class Node:
    """A node that is looked at."""

    def __init__(self, facts: NodeFacts, node_id: str, free_gpus: int, question: Question) -> None:
        """Begins to look; `question.names` are the checks on this node."""
        self.facts = facts
        self._free = free_gpus
        self._on_it = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}
        asked = question.asked.on_node(facts.name, facts.gpus).model_dump_json()
        on_gpus = [name for name in question.names if contract.find(name).TAKES_GPU and facts.gpus >= 1]
        plain = [name for name in question.names if name not in on_gpus and name != "clock"]
        self.clock = "clock" in question.names
        self.busy = dict.fromkeys(on_gpus if free_gpus == 0 else [], Look(error="every GPU is busy: not looked at"))
        self.plain = _LOOK.options(**self._on_it).remote(plain, asked)
        self.on_gpus = None
        if on_gpus and free_gpus:
            self.on_gpus = _LOOK.options(num_gpus=free_gpus, **self._on_it).remote(on_gpus, asked)

    def plain_looks(self, deadline: float) -> Line:
        """What came of the checks that take no GPU, and of its clock."""
        try:
            found = ray.get(self.plain, timeout=max(0.0, deadline - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(self.plain, force=True)
            return Line(node=self.facts.name, lost="it has not answered in time")
        except Exception as error:  # whatever keeps the code from running there is the finding
            return Line(node=self.facts.name, lost=_reason(error))
        looks = {name: Look.model_validate_json(text) for name, text in found.items()} | self.busy
        if self.clock:
            looks["clock"] = self._clock()
        return Line(node=self.facts.name, looks=looks)

    def gpu_looks(self, deadline: float) -> Line | None:
        """What came of the checks on its GPUs; None where there are none to be looked at."""
        if self.on_gpus is None:
            return None
        try:
            found = ray.get(self.on_gpus, timeout=max(0.0, deadline - time.monotonic()))
            looks = {name: Look.model_validate_json(text) for name, text in found.items()}
        except Exception as error:
            late = isinstance(error, ray.exceptions.GetTimeoutError)
            if late:
                ray.cancel(self.on_gpus, force=True)
            why = f"its {self._free} free GPUs were taken meanwhile: not looked at" if late else _reason(error)
            looks = {name: Look(error=why) for name in contract.names() if contract.find(name).TAKES_GPU}
        return Line(node=self.facts.name, looks=looks)

    def _clock(self) -> Look:
        bounds = []
        for _ in range(CLOCK_ROUNDS):
            before = time.time()
            try:
                there = ray.get(_TIME.options(**self._on_it).remote(), timeout=CLOCK_SECONDS)
            except Exception as error:
                return Look(error=_reason(error))
            bounds.append({"least": there - time.time(), "most": there - before})
        return Look(facts=min(bounds, key=lambda each: each["most"] - each["least"]))


def main() -> None:
    """Connects, looks and prints; see the module."""
    question = Question.model_validate_json(processes.question())
    if not connect.is_there(question.address):
        _print(Line(refused=f"{question.address}: nothing listens there"))
        return
    try:
        with connect.connected(question.address, "qsweep-doctor"):
            _look_at(question)
    except ClusterError as error:
        _print(Line(refused=str(error)))


def _look_at(question: Question) -> None:
    free = ray._private.state.available_resources_per_node()
    alive = [node for node in ray.nodes() if node["Alive"]]
    named = names_of(alive)
    _print(Line(nodes=tuple(NodeFacts(name=name, gpus=_gpus(node)) for name, node in zip(named, alive, strict=True))))
    began, patience = time.monotonic(), question.asked.patience
    on_gpus = question.asked.uses_gpus and any(_gpus(node) >= 1 for node in alive)
    nodes = []
    for name, node in zip(named, alive, strict=True):
        facts = NodeFacts(name=name, gpus=_gpus(node))
        names = checks_on(question.names, trains=facts.gpus >= 1 or not on_gpus)
        free_gpus = int(free.get(node["NodeID"], {}).get("GPU", 0))
        nodes.append(Node(facts, node["NodeID"], free_gpus, question.model_copy(update={"names": names})))
    for node in nodes:
        _print(node.plain_looks(began + LOOK_SECONDS * patience))
    for node in nodes:
        answer = node.gpu_looks(began + GPU_SECONDS * patience)
        if answer is not None:
            _print(answer)


def checks_on(names: Sequence[str], trains: bool) -> tuple[str, ...]:
    """The checks that concern a node. On one without a GPU, in a cluster that has GPUs, nothing trains."""
    return tuple(name for name in names if trains or name == "clock" or contract.find(name).ON == "both")


def names_of(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Addresses of nodes, with the beginning of the id where several have the same."""
    addresses = [str(node["NodeManagerAddress"]) for node in nodes]
    return [
        address if addresses.count(address) == 1 else f"{address}#{str(node['NodeID'])[:6]}"
        for address, node in zip(addresses, nodes, strict=True)
    ]


def _gpus(node: Mapping[str, Any]) -> float:
    return float(node.get("Resources", {}).get("GPU", 0))


def _reason(error: Exception) -> str:
    """The last line of an error: Ray puts the node's traceback before it."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return legible(lines[-1] if lines else type(error).__name__, 300)


def _print(answer: Line) -> None:
    print(answer.model_dump_json(), flush=True)


if __name__ == "__main__":
    main()
