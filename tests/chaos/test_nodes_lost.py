"""A machine of the cluster is lost while a sweep trains on it."""

from __future__ import annotations

import chaos_runs as runs
import psutil
import pytest
import ray_clusters

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]


def hosts_on(cluster: ray_clusters.Nodes, place: int) -> int:
    """How many hosts the node has; its raylet, their parent, names its temporary folder."""
    found = 0
    for child in psutil.Process(cluster.process.pid).children(recursive=True):
        title, parent = " ".join(child.cmdline()), child.parent()
        if title.startswith("ray::Host") and parent is not None:
            found += f"/node{place + 1}" in " ".join(parent.cmdline())
    return found


def test_slots_of_a_lost_node_move_to_the_others(tmp_path):
    with ray_clusters.nodes(3) as cluster:
        words = [
            *runs.TOY, "scheduler.kind=fifo", "training.snapshot_every=2", "cluster.profile=attached",
            f"cluster.address={cluster.address}", "cluster.hosts=3", "cluster.slots_per_host=1",
        ]  # fmt: skip
        run = runs.start(tmp_path, "launch", *words, **cluster.environment)
        sweep = tmp_path / "results" / "toy"
        runs.wait_for(lambda: (sweep / "events.jsonl").exists() and runs.reports(sweep) >= 2, run)
        cluster.remove(next(place for place in (0, 1) if hosts_on(cluster, place)))
        assert run.wait() == 0, run.err.read_text()
        found = runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
        runs.assert_every_step_once(sweep)
        assert {trial.state.value for trial in found.trials.values()} == {"COMPLETED"}
        told = run.err.read_text()
        assert "host lost" in told
        assert "host started" in told
        assert "Traceback" not in told
