"""The nodes of the Ray cluster, and how many hosts they have room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import ray
from ray._private import state


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    node_id: str
    gpus: float
    """GPUs that Ray counts on it."""
    free_gpus: float
    """GPUs that nobody holds."""
    is_leaving: bool = False
    """Whether Ray drains the node: it ends soon, because it was idle or is taken away."""
    memory: float = 0.0
    """Bytes of memory that Ray counts on the node, and gives to tasks that ask for memory."""


def look() -> tuple[Node, ...]:
    """Returns the nodes that are alive. Ray may need seconds to notice that a node died."""
    leaving = state.state.get_draining_nodes()
    free = state.available_resources_per_node()
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            node_id, counted = str(node["NodeID"]), node["Resources"]
            gpus = float(counted.get("GPU", 0.0))
            # A node that has just joined has not reported its free GPUs yet.
            free_gpus = float(free[node_id].get("GPU", 0.0)) if node_id in free else gpus
            memory = float(counted.get("memory", 0.0))
            found.append(Node(node_id, gpus, free_gpus, node_id in leaving, memory))
    return tuple(found)


def staying() -> dict[str, Node]:
    """Returns Ray's id -> node, for the nodes that are alive and do not end soon."""
    return {node.node_id: node for node in look() if not node.is_leaving}


def gpus(nodes: Sequence[Node]) -> int:
    """Counts the whole GPUs of the nodes that stay."""
    return sum(int(node.gpus) for node in nodes if not node.is_leaving)


def problem(number: int, each: int, nodes: Sequence[Node]) -> str | None:
    """Returns why `number` hosts of `each` GPUs can never run on nodes that stay, and the way out; None if they can."""
    there = gpus(nodes)
    room = sum(int(node.gpus) // each for node in nodes if not node.is_leaving)
    if number <= room:
        return None
    if each > 1 and there and not room:
        most = max(int(node.gpus) for node in nodes if not node.is_leaving)
        return (
            f"cluster.gpus_per_host: {each} asked for, but no machine of the cluster has more than {most}: set "
            f"cluster.gpus_per_host={most} or less, or run on a machine with {each}"
        )
    hosts = f"{room} {'host' if room == 1 else 'hosts'}"
    has = (
        f"{there} GPUs, one per host"
        if each == 1
        else f"{there} GPUs, which is room for {hosts} with {each} GPUs of one machine each"
    )
    fewer = f"launch with cluster.hosts={room}, or resume after qsweep extend SWEEP cluster.hosts={room}"
    way_out = fewer if there else "set cluster.gpus_per_host=0 to train on CPUs"
    return f"cluster.hosts: {number} asked for, but the cluster has {has}: {way_out}"


def outlook(number: int, each: int, nodes: Sequence[Node]) -> str | None:
    """Returns what the start of `number` hosts of `each` GPUs waits for; None if there is room for all of them."""
    staying = [node for node in nodes if not node.is_leaving]
    free = sum(int(node.free_gpus) // each for node in staying)
    if number <= free:
        return None
    wanted = f"{number} {'host is' if number == 1 else 'hosts are'} wanted"
    begins = "the sweep begins with those" if free else "the sweep begins when the first one is there"
    if each == 1:
        return (
            f"{wanted}, and {free} of the cluster's {gpus(nodes)} GPUs are free: {begins}, and takes more as they come"
        )
    most = max((int(node.gpus) for node in staying), default=0)
    if most < each:
        return (
            f"{wanted}, each with {each} GPUs of one machine, and no machine of the cluster has more than {most}: the "
            f"sweep begins when a machine with {each} GPUs joins"
        )
    return (
        f"{wanted}, each with {each} GPUs of one machine, and there is room for {free}: {begins}, and takes more as "
        "they come"
    )


def wanted(
    asked: int | Literal["auto"], each: int, nodes: Sequence[Node], held: Mapping[str, int], unplaced: int = 0
) -> int:
    """Returns how many hosts there should be on nodes that stay.

    If `asked` is a number, Ray is asked for all these hosts at once, so that an autoscaler adds the missing nodes. With
    auto, hosts take only GPUs that nobody else holds, and at least one host is asked for.

    Args:
        asked: `cluster.hosts`.
        each: GPUs that each host holds, of one node.
        held: node id -> hosts on the node.
        unplaced: hosts that are being made and may hold a GPU already.
    """
    if asked != "auto":
        return asked
    if not each:
        return 1
    staying = {node.node_id: node for node in nodes if not node.is_leaving}
    free = sum(_free(node, held.get(node_id, 0), each) for node_id, node in staying.items())
    return max(1, sum(held.get(node_id, 0) for node_id in staying) + max(free, unplaced))


def _free(node: Node, held: int, each: int) -> int:
    """Counts the hosts that can start on a node now. Ray's count of free GPUs lags behind."""
    return max(0, min(int(node.free_gpus) // each, int(node.gpus) // each - held))
