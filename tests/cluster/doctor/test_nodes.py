"""`qsweep doctor --address` on a real cluster of two nodes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import mlflow_servers
import psutil
import pytest
import ray_clusters
from ray_clusters import Nodes

from cluster.doctor import contract, examine, on_cluster
from cluster.doctor.contract import DRIVER, Asked
from cluster.doctor.looking import Look
from cluster.doctor.messages import Line, NodeFacts

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A head without a GPU, and a node for which Ray counts one."""
    with ray_clusters.nodes(2, gpus=1) as found:
        yield found


@pytest.fixture
def qsweep(cluster, tmp_path):
    def run(*words: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "sweeps", "doctor", *words, "--json"], cwd=tmp_path, text=True, timeout=580,
            env={**os.environ, **cluster.environment, "QSWEEP_DOCTOR_PATIENCE": "4"}, capture_output=True,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout.splitlines()[-1])

    return run


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


def by_place(answer: dict[str, Any]) -> dict[str, dict[str, dict[str, str]]]:
    """Place -> check -> finding."""
    places: dict[str, dict[str, dict[str, str]]] = {}
    for found in answer["findings"]:
        places.setdefault(found["node"], {})[found["check"]] = found
    return places


def test_each_node_is_looked_at_and_left_as_it_was(cluster, qsweep, tmp_path):
    code, answer = qsweep("toy", "--address", cluster.address, f"storage={tmp_path}/results")
    places = by_place(answer)
    driver = places.pop(DRIVER)
    assert set(driver) == {*contract.chosen("driver", True), examine.CONNECTION}
    assert driver["token"]["state"] == "warn", "this cluster asks for none"
    head, node = sorted(places.values(), key=len)
    names = contract.chosen("nodes", True)
    assert set(node) == set(names)
    assert set(head) == set(on_cluster.checks_on(names, trains=False))
    # No such GPU is there: the one failure, unless the machine of this test has one.
    wrong = {check for found in (driver, head, node) for check, each in found.items() if each["state"] == "fail"}
    assert wrong == ({"gpu"} if shutil.which("nvidia-smi") is None else set()), answer
    assert code == len(wrong)
    assert node["bitsandbytes"]["state"] == "ok", node
    assert all("read what the other one wrote" in found["storage"]["seen"] for found in (head, node))
    assert list(tmp_path.iterdir()) == []
    assert of_the_doctor(cluster) == []
    assert cluster.left() == ""


HOLD = """
import sys
import ray

@ray.remote(num_gpus=1)
class Holder:
    def hold(self):
        return "held"

ray.init(address=sys.argv[1], log_to_driver=False)
holder = Holder.remote()
print(ray.get(holder.hold.remote()), flush=True)
sys.stdin.read()
"""


def test_a_busy_gpu_is_not_waited_for(cluster, qsweep):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, cluster.address], env={**os.environ, **cluster.environment},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        _, answer = qsweep("--address", cluster.address)
        holder.stdin.close()
    (found,) = [each for each in answer["findings"] if each["check"] == "bitsandbytes"]
    assert (found["state"], found["seen"]) == ("unknown", "every GPU is busy: not looked at")


def test_a_cluster_that_does_not_answer_is_a_failure_in_time(monkeypatch):
    """As the head service of a cluster that this machine is no node of: a connection that says nothing."""
    monkeypatch.setattr(examine, "CONNECT_SECONDS", 5.0)
    monkeypatch.setattr(contract, "chosen", lambda place, has_file: ())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        (found,) = examine.a_cluster(Asked(), address)
    assert (found.check, found.node, found.state) == (examine.CONNECTION, DRIVER, "fail")
    assert found.seen == f"{address}: no answer within 5 s"
    assert "run the doctor on a node" in found.mend


def test_an_address_where_nothing_listens_is_told_at_once(monkeypatch):
    monkeypatch.setattr(contract, "chosen", lambda place, has_file: ())
    (found,) = examine.a_cluster(Asked(), f"127.0.0.1:{mlflow_servers.free_port()}")
    assert found.state == "fail"
    assert "nothing listens there" in found.seen


def test_where_nothing_trains_only_what_concerns_every_node_is_looked_at():
    names = contract.chosen("nodes", True)
    assert on_cluster.checks_on(names, trains=True) == names
    assert set(names) - set(on_cluster.checks_on(names, trains=False)) == {
        "bf16", "bitsandbytes", "compute_capability", "gpu", "memory", "model_and_data"
    }  # fmt: skip


def test_nodes_with_one_address_are_told_apart():
    nodes = [{"NodeManagerAddress": address, "NodeID": f"{place}bcdefgh"} for place, address in enumerate("xxy")]
    assert on_cluster.names_of(nodes) == ["x#0bcdef", "x#1bcdef", "y"]


def test_a_node_that_answers_only_in_part_is_told(monkeypatch):
    """As when the process on the cluster ends before the GPUs have been tried."""
    nodes = (NodeFacts(name="a", gpus=1.0), NodeFacts(name="b", gpus=0.0), NodeFacts(name="c", gpus=1.0))
    look = {"gpu": Look(facts={"gpus": [], "error": "broken", "has_device": True})}
    answers = [Line(nodes=nodes), Line(node="a", looks=look), Line(node="b", looks=look)]
    monkeypatch.setattr(examine, "_answers", lambda question: iter([*answers, Line(node="c", lost="gone")]))
    monkeypatch.setattr(contract, "chosen", lambda place, has_file: ("gpu", "bitsandbytes") if place == "nodes" else ())
    found = [(each.check, each.node, each.state) for each in examine.a_cluster(Asked(), "auto")]
    assert found == [
        ("connection", DRIVER, "ok"),
        ("gpu", "a", "fail"),
        ("gpu", "b", "fail"),
        ("connection", "c", "fail"),
        ("bitsandbytes", "a", "unknown"),
    ]
