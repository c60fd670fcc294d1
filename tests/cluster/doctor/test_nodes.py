"""`qsweep doctor --address` on a real cluster of three nodes, and what is said of clusters that are not there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict

import psutil
import pytest
import ray_clusters
from ray_clusters import Nodes

from cluster import timeouts
from cluster.doctor import examine, on_cluster
from cluster.doctor.contract import DRIVER, CheckResult, Needs, Site
from trainables.specs import TrialSpec

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
TOY = Site(needs=Needs(base=TrialSpec(trainable="toy", steps=1)))


def of_the_doctor(cluster: Nodes) -> list[str]:
    """Processes on the cluster's nodes that a doctor has left."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        try:
            if "cluster.doctor" in words and process.environ().get("RAY_TMPDIR") == cluster.environment["RAY_TMPDIR"]:
                found.append(words)
        except psutil.Error:
            continue
    return found


def test_each_node_is_looked_at_and_left_as_it_was(tmp_path):
    # A head without a GPU, and a node for which Ray counts one.
    with ray_clusters.nodes(2, gpus=1) as cluster:
        done = subprocess.run(
            [sys.executable, "-m", "sweeps", "doctor", "toy", "--address", cluster.address, "--json",
             f"storage={tmp_path}/results"],
            cwd=tmp_path, text=True, timeout=580, capture_output=True,
            env={**os.environ, **cluster.environment, "QSWEEP_DOCTOR_PATIENCE": "4"},
        )  # fmt: skip
        assert of_the_doctor(cluster) == []
        assert cluster.left() == ""
    answer = json.loads(done.stdout.splitlines()[-1])
    places: dict[str, dict[str, dict[str, str]]] = {}
    for found in answer["findings"]:
        places.setdefault(found["node"], {})[found["check"]] = found
    driver = places.pop(DRIVER)
    assert set(driver) == {*examine.chosen(TOY, "driver"), examine.CONNECTION}
    assert driver["token"]["state"] == "warn", "this cluster asks for none"
    head, node = sorted(places.values(), key=len)
    names = examine.chosen(TOY, "nodes")
    assert set(node) == {*names, "clock"}
    assert set(head) == {*on_cluster.checks_on(names, trains=False), "clock"}
    # No such GPU is there: the one failure, unless the machine of this test has one.
    wrong = {name for found in (driver, head, node) for name, each in found.items() if each["state"] == "fail"}
    assert wrong == ({"gpu"} if shutil.which("nvidia-smi") is None else set()), answer
    assert done.returncode == len(wrong)
    assert node["bitsandbytes"]["state"] == "ok", node
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_does_not_answer_is_a_failure_in_time(monkeypatch):
    """As the head service of a cluster that this machine is no node of: a connection that says nothing."""
    monkeypatch.setattr(timeouts, "DOCTOR_CONNECT_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        (found,) = examine.on_nodes(Site(), address)
    assert (found.check, found.node, found.state) == (examine.CONNECTION, DRIVER, "fail")
    assert found.seen == f"{address}: no answer within 2 s"
    assert "run the doctor on a node" in found.mend


def test_a_process_on_the_cluster_that_ends_too_early_is_told(monkeypatch, tmp_path):
    """As when Ray takes it down before the GPUs have been tried."""
    first = CheckResult("ok", "free", rows=[]).of("disk", "a")  # as JSON has no tuples
    (tmp_path / "breaking.py").write_text(f"print('a library')\nprint({json.dumps(asdict(first))!r})\n1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = list(examine.on_nodes(Site(), "auto", "breaking"))
    assert found[0] == first
    assert [(each.check, each.state, each.seen) for each in found[1:]] == [
        (examine.CONNECTION, "fail", "auto: its process ended with exit code 1: ZeroDivisionError: division by zero")
    ]


def test_where_nothing_trains_only_what_concerns_every_node_is_looked_at():
    names = examine.chosen(TOY, "nodes")
    assert on_cluster.checks_on(names, trains=True) == names
    assert set(names) - set(on_cluster.checks_on(names, trains=False)) == {
        "bf16", "bitsandbytes", "compute_capability", "gpu", "memory", "model_and_data"
    }  # fmt: skip


def test_nodes_with_one_address_are_told_apart():
    nodes = [{"NodeManagerAddress": address, "NodeID": f"{place}bcdefgh"} for place, address in enumerate("xxy")]
    assert on_cluster.names_of(nodes) == ["x#0bcdef", "x#1bcdef", "y"]


@pytest.mark.parametrize(
    ("gpus", "gpus_per_host", "state"),
    [
        ((0, 1, 1), 2, "fail"),
        ((0, 1, 2), 2, "ok"),
        ((0, 0), 2, "warn"),  # an autoscaler may bring one
        ((0, 0), 1, "ok"),
        ((1, 1), 1, "ok"),
    ],
)
def test_a_cluster_on_which_no_machine_can_take_a_host_fails(gpus, gpus_per_host, state):
    found = on_cluster.connected(gpus, "auto", gpus_per_host)
    assert (found.check, found.node, found.state) == (examine.CONNECTION, DRIVER, state)
    assert found.seen.startswith(f"{len(gpus)} nodes with {sum(gpus)} GPUs at auto")
    assert ("none has so many: the sweep waits for one that has" in found.seen) == (state != "ok")
