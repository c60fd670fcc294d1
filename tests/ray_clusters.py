"""A Ray cluster of several nodes on this machine, in a process of its own, whose nodes can be taken away."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

# Everything on 127.0.0.1: Ray would take the address of a network card otherwise (ray/_private/services.py, 2.60). The
# health checks are quick, so that a node that is gone is known to be gone within seconds.
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
NODES = """
import sys
import ray
from ray._private.state import GlobalState
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

health = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
folder, count, gpus, *memory = sys.argv[1], *map(int, sys.argv[2:])
of_head, of_others = ({"memory": each} for each in memory) if memory else ({}, {})
cluster = Cluster(
    initialize_head=True,
    head_node_args={
        "num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8, "_system_config": health,
        # Any: the node would wait seconds for a fixed port that another test's has.
        "dashboard_agent_listen_port": 0, **of_head
    },
)
nodes = {}

def add(count=gpus):
    # A temporary folder each: one node's clean-up must not take away what another uses.
    options = {"num_cpus": 1, "num_gpus": int(count), "object_store_memory": 10**8, **of_others}
    nodes[len(nodes)] = cluster.add_node(**options, temp_dir=f"{folder}/node{len(nodes) + 1}")

def remove(place):
    cluster.remove_node(nodes[int(place)], allow_graceful=False)

def drain(place):
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = ray._raylet.GcsClient(address=cluster.address)
    assert client.drain_node(nodes[int(place)].node_id, reason, "preempted", 2**52)[0]

def left():
    # What sweeps have left behind; Ray's own state is asked, so that this process is no driver.
    state = GlobalState()
    options = ray._raylet.GcsClientOptions.create(
        cluster.address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False
    )
    state._initialize_global_state(options)
    actors = [each["ActorClassName"] for each in state.actor_table(None).values() if each["State"] != "DEAD"]
    groups = [each["state"] for each in state.placement_group_table().values() if each["state"] != "REMOVED"]
    state.disconnect()
    return " ".join(actors + groups)

for _ in range(1, count):
    add()
print(cluster.address, flush=True)
for line in sys.stdin:
    command, *words = line.split()
    print(f"{command}: {globals()[command](*words) or ''}", flush=True)
cluster.shutdown()
"""


@dataclass
class Nodes:
    """The cluster. Nodes are numbered from 0, the first after the head, as they were added; numbers stay."""

    address: str
    environment: dict[str, str]
    process: subprocess.Popen[str]
    places: list[int]
    """The nodes that are there, the head left out."""
    added: int

    def remove(self, place: int) -> None:
        """Kills a node with all that runs there."""
        self._do("remove", str(place))
        self.places.remove(place)

    def add(self, *gpus: str) -> int:
        """Adds one more node, like the others or with so many declared GPUs; its number."""
        self._do("add", *gpus)
        self.places.append(self.added)
        self.added += 1
        return self.places[-1]

    def have(self, count: int) -> list[int]:
        """Adds or removes nodes until so many are there; their numbers."""
        for _ in range(count - len(self.places)):
            self.add()
        for place in self.places[count:]:
            self.remove(place)
        return list(self.places)

    def drain(self, place: int) -> None:
        """Tells Ray that a node will be taken away soon."""
        self._do("drain", str(place))

    def left(self) -> str:
        """The classes of the actors that live, and the states of placement groups that were not removed."""
        return self._do("left")

    def processes(self, place: int) -> list[psutil.Process]:
        """The raylet of a node, whose command names the node's temporary folder, and all that it has started."""
        for each in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                if each.name() == "raylet" and f"/node{place + 1}/" in " ".join(each.cmdline()):
                    return [each, *each.children(recursive=True)]
        return []

    def hosts(self, place: int) -> list[psutil.Process]:
        """The processes of hosts on a node."""
        return _titled(self.processes(place), "ray::Host")

    def trials(self, place: int) -> list[psutil.Process]:
        """The processes of trials on a node."""
        return _titled(self.processes(place), "ray::TrialStub")

    def _do(self, *words: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()
        command, colon, answer = self.process.stdout.readline().partition(":")
        assert (command, colon) == (words[0], ":"), "the process that holds the nodes has ended"
        return answer.strip()


def _titled(processes: list[psutil.Process], title: str) -> list[psutil.Process]:
    found = []
    for each in processes:
        with suppress(psutil.Error):  # it has just ended
            found += [each] if " ".join(each.cmdline()).startswith(title) else []
    return found


@contextmanager
def nodes(count: int, gpus: int = 0, memory: tuple[int, int] | None = None) -> Iterator[Nodes]:
    """A head without GPUs, and `count - 1` other nodes with as many declared GPUs each as `gpus` says.

    `memory` is what Ray counts on the head, and on each other node; None leaves it to Ray.
    """
    # Short: Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="qs", ignore_cleanup_errors=True) as folder:
        # Ray notes there which cluster it started last, for everyone on the machine otherwise.
        (Path(folder) / "ray").mkdir()
        environment = {**ENVIRONMENT, "RAY_TMPDIR": folder}
        # Ray counts no GPU where this is empty.
        inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        with (Path(folder) / "nodes.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", NODES, folder, *map(str, (count, gpus, *(memory or ())))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**inherited, **environment},
            )  # fmt: skip
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, (Path(folder) / "nodes.log").read_text()
        try:
            yield Nodes(address, environment, process, list(range(count - 1)), count - 1)
        finally:
            process.communicate(timeout=60)
