"""A sweep on a real Ray of several nodes, which come and go; their GPUs are declared, and the toy trains on CPUs."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import chaos_runs as runs
import pytest
import ray_clusters

from sweeps.record.events import HostsChanged, HostsStarted

MOVES = "its process is lost: another goes on from the last snapshot"
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
# No trial ends before nodes have come and gone, however long that takes: until `hurry`, its steps take 70 s.
FIFO = [
    "toy", "scheduler.kind=fifo", "training.snapshot_every=2", "training.step_seconds=0.3", "cluster.profile=attached",
    "cluster.slots_per_host=1", "budget.steps_per_trial=243",
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[ray_clusters.Nodes]:
    """A head without a GPU, with memory for no trial's process that may be anywhere, and two nodes with a GPU each."""
    with ray_clusters.nodes(3, gpus=1, memory=(10**8, 10**9)) as found:
        yield found


@pytest.fixture(autouse=True)
def database(tmp_path: Path, empty_database: Path) -> None:
    """An empty tracking database in the test's folder: making one takes seconds."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")


def started(folder: Path, cluster: ray_clusters.Nodes, *words: str, trials_on_head: int = 100) -> tuple[runs.Run, Path]:
    words = (*FIFO, *runs.variant(folder, "paced", runs.PACED), f"cluster.address={cluster.address}", *words)
    run = runs.start(folder, "launch", *words, **cluster.environment, QSWEEP_TRIALS_ON_HEAD=str(trials_on_head))
    sweep = folder / "results" / "toy"
    runs.wait_for(lambda: runs.reports(sweep) >= 1, run)
    return run, sweep


def hosts(sweep: Path) -> list[int]:
    """How many hosts there were, one after the other."""
    told = [event for event in runs.events(sweep) if isinstance(event, HostsStarted | HostsChanged)]
    return [number for number, _ in groupby(event.hosts for event in told)]  # else another loads, or has left


def places(cluster: ray_clusters.Nodes) -> set[int]:
    """The nodes that have a host."""
    return {place for place in range(cluster.added) if cluster.hosts(place)}


def assert_nothing_lost(folder: Path, sweep: Path, trials: int) -> None:
    found = runs.assert_whole(sweep, f"sqlite:///{folder}/mlflow.db", trials)
    runs.assert_every_step_once(sweep)
    assert {trial.state.value for trial in found.trials.values()} == {"COMPLETED"}


def test_hosts_follow_the_nodes_and_no_step_is_written_twice(tmp_path, cluster):
    drained, killed = cluster.have(2)
    run, sweep = started(tmp_path, cluster, "budget.trials=4")
    assert hosts(sweep) == [2], "one on each node that has a GPU"
    assert places(cluster) == {drained, killed}
    joined = cluster.add()
    runs.wait_for(lambda: hosts(sweep)[-1] == 3, run)
    assert places(cluster) == {drained, killed, joined}
    cluster.drain(drained)
    runs.wait_for(lambda: places(cluster) == {killed, joined}, run)
    cluster.remove(drained)
    cluster.remove(killed)
    runs.wait_for(lambda: hosts(sweep)[-1] == 1, run)
    runs.hurry(tmp_path)
    assert run.wait() == 0, run.err.read_text()
    assert_nothing_lost(tmp_path, sweep, 4)
    told = run.err.read_text()
    assert "1 trial moves): its node is leaving the cluster" in told
    assert "Traceback" not in told
    assert "could not be made" not in told
    runs.wait_for(lambda: cluster.left() == "")  # Ray hears of the driver's end after it


@pytest.mark.chaos_long
def test_trials_whose_processes_are_on_nodes_that_go_away_go_on_elsewhere(tmp_path, cluster):
    drained, killed = cluster.have(2)
    run, sweep = started(tmp_path, cluster, "budget.trials=3", trials_on_head=0)
    runs.wait_for(lambda: bool(cluster.trials(drained) and cluster.trials(killed)), run)
    [keeper] = cluster.folder_keepers()
    runs.kill(keeper.pid)
    cluster.add()
    cluster.drain(drained)
    runs.wait_for(lambda: MOVES in run.err.read_text(), run)
    cluster.remove(drained)
    assert cluster.trials(killed)
    cluster.remove(killed)
    runs.hurry(tmp_path)
    assert run.wait() == 0, run.err.read_text()
    assert_nothing_lost(tmp_path, sweep, 3)
    told = run.err.read_text()
    assert told.count("the head has its share of trial processes (0): further ones go to any node") == 1
    assert told.count(MOVES) >= 2
    assert "Traceback" not in told
    runs.wait_for(lambda: cluster.left() == "")  # Ray hears of the driver's end after it


@pytest.mark.chaos_long
def test_a_sweep_that_loses_every_worker_waits_and_goes_on(tmp_path, cluster):
    [only] = cluster.have(1)
    run, sweep = started(tmp_path, cluster, "budget.trials=2")
    cluster.remove(only)
    runs.wait_for(lambda: hosts(sweep)[-1] == 0, run)
    cluster.add()
    runs.wait_for(lambda: hosts(sweep) == [1, 0, 1], run)
    runs.hurry(tmp_path)
    assert run.wait() == 0, run.err.read_text()
    assert hosts(sweep) == [1, 0, 1]
    assert_nothing_lost(tmp_path, sweep, 2)
    told = run.err.read_text()
    assert told.count("no host is left: trials wait until one is there") == 1
    assert told.count("host lost") == told.count("host started") == 1
    assert "could not be made" not in told


def test_a_host_of_two_gpus_waits_for_a_machine_that_has_them_and_an_interrupt_leaves_nothing(tmp_path, cluster):
    cluster.have(2)
    words = (*FIFO, *runs.variant(tmp_path, "paced", runs.PACED), "budget.trials=1", "cluster.gpus_per_host=2")
    run = runs.start(tmp_path, "launch", *words, f"cluster.address={cluster.address}", **cluster.environment)
    waits = (
        "1 host is wanted, each with 2 GPUs of one machine, and no machine of the cluster has more than 1: the sweep"
    )
    runs.wait_for(lambda: waits in run.err.read_text(), run)
    assert places(cluster) == set()
    larger = cluster.add("3")
    runs.wait_for(lambda: places(cluster) == {larger}, run)
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: runs.reports(sweep) >= 1, run)
    assert hosts(sweep) == [1], "the third GPU has no host"
    assert cluster.left().split().count("Host") == 1
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130, run.err.read_text()
    runs.wait_for(lambda: cluster.left() == "")
    cluster.remove(larger)


@pytest.mark.chaos_long
def test_a_sweep_takes_what_it_was_allowed_and_leaves_nothing_when_it_is_killed(tmp_path, cluster):
    cluster.have(2)
    run, sweep = started(tmp_path, cluster, "budget.trials=6", "cluster.hosts=1")
    assert hosts(sweep) == [1]
    assert cluster.left().split().count("Host") == 1
    run.process.send_signal(signal.SIGKILL)
    run.process.wait(runs.DEADLINE_SECONDS)
    runs.wait_for(lambda: cluster.left() == "")
