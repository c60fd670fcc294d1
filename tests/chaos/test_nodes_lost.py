"""A machine of the cluster is lost while a sweep trains on it."""

from __future__ import annotations

import signal

import chaos_runs as runs
import psutil
import pytest
import ray_clusters

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]


def test_slots_of_a_lost_node_move_to_the_others(tmp_path):
    with ray_clusters.nodes(3) as cluster:
        words = [
            *runs.TOY, "scheduler.kind=fifo", "training.snapshot_every=2", "cluster.profile=attached",
            f"cluster.address={cluster.address}", "cluster.hosts=3", "cluster.slots_per_host=1",
        ]  # fmt: skip
        run = runs.start(tmp_path, "launch", *words, **cluster.environment)
        sweep = tmp_path / "results" / "toy"
        runs.wait_for(lambda: (sweep / "events.jsonl").exists() and runs.reports(sweep) >= 2, run)
        cluster.remove(next(place for place in (0, 1) if cluster.hosts(place)))
        assert run.wait() == 0, run.err.read_text()
        found = runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
        runs.assert_every_step_once(sweep)
        assert {trial.state.value for trial in found.trials.values()} == {"COMPLETED"}
        told = run.err.read_text()
        assert "host lost" in told
        assert "host started" in told
        assert "Traceback" not in told


def test_a_node_that_was_cut_off_and_comes_back_adds_nothing(tmp_path):
    with ray_clusters.nodes(3, gpus=1) as cluster:
        words = [
            *runs.TOY, "scheduler.kind=fifo", "training.snapshot_every=2", "cluster.profile=attached",
            f"cluster.address={cluster.address}", "cluster.slots_per_host=1",
        ]  # fmt: skip
        run = runs.start(tmp_path, "launch", *words, **cluster.environment)
        sweep = tmp_path / "results" / "toy"
        runs.wait_for(lambda: (sweep / "events.jsonl").exists() and runs.reports(sweep) >= 2, run)
        frozen = cluster.processes(0)
        raylet, *_ = frozen
        hosts = cluster.hosts(0)
        assert hosts
        for process in frozen:
            process.send_signal(signal.SIGSTOP)
        runs.wait_for(lambda: "host lost" in run.err.read_text(), run)
        for process in frozen:
            process.send_signal(signal.SIGCONT)
        assert run.wait() == 0, run.err.read_text()
        found = runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
        runs.assert_every_step_once(sweep)
        assert {trial.state.value for trial in found.trials.values()} == {"COMPLETED"}
        # Ray ends the raylet of a node that it holds for dead, and a host ends when its raylet's process is gone
        # (CoreWorker::ExitIfParentRayletDies). Who started the raylet takes it away, here as `ray start` does.
        runs.wait_for(lambda: not raylet.is_running() or raylet.status() == psutil.STATUS_ZOMBIE)
        cluster.remove(0)
        _, alive = psutil.wait_procs(hosts, timeout=60)
        assert alive == []
