"""A Ray cluster of several nodes on this machine, in a process of its own, whose nodes can be taken away."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Everything on 127.0.0.1: Ray would take the address of a network card otherwise (ray/_private/services.py, 2.60). The
# health checks are quick, so that a node that is gone is known to be gone within seconds.
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
NODES = """
import sys
from ray.cluster_utils import Cluster

health = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
folder, count = sys.argv[1], int(sys.argv[2])
cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8, "_system_config": health},
)
# A temporary folder each: one node's clean-up must not take away what another uses.
nodes = [
    cluster.add_node(num_cpus=1, object_store_memory=10**8, temp_dir=f"{folder}/node{place}")
    for place in range(1, count)
]
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(int(line)), allow_graceful=False)
    print("removed", flush=True)
cluster.shutdown()
"""


@dataclass
class Nodes:
    """The cluster; node 0 of `remove` is the first after the head."""

    address: str
    environment: dict[str, str]
    process: subprocess.Popen[str]

    def remove(self, place: int) -> None:
        """Kills a node with all that runs there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{place}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "removed\n"


@contextmanager
def nodes(count: int) -> Iterator[Nodes]:
    """A head and `count - 1` other nodes. The folder is short: Ray's sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="qs", ignore_cleanup_errors=True) as folder:
        # Ray notes there which cluster it started last, for everyone on the machine otherwise.
        (Path(folder) / "ray").mkdir()
        environment = {**ENVIRONMENT, "RAY_TMPDIR": folder}
        with (Path(folder) / "nodes.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", NODES, folder, str(count)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, **environment},
            )  # fmt: skip
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, (Path(folder) / "nodes.log").read_text()
        try:
            yield Nodes(address, environment, process)
        finally:
            process.communicate(timeout=60)
