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

MOVES = "its process is lost: another is made, and the trial goes on"
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
# No trial ends before nodes have come and gone, however long that takes: until `hurry`, its steps take 70 s.
FIFO = [
    "toy", "scheduler.kind=fifo", "training.snapshot_every=2", "training.step_seconds=0.3", "cluster.profile=attached",
    "cluster.slots_per_host=1", "budget.steps_per_trial=243",
]  # fmt: skip


@pytest.fixture(scope="module")
def shared() -> Iterator[ray_clusters.Nodes]:
    """A head without a GPU, with memory for no trial's process that may be anywhere."""
    with ray_clusters.nodes(1, gpus=1, memory=(10**8, 10**9)) as found:
        yield found


@pytest.fixture
def cluster(shared: ray_clusters.Nodes) -> Iterator[ray_clusters.Nodes]:
    """The head alone; the test's sweeps and nodes end with it, whatever became of it."""
    yield shared
    runs.kill_started()
    shared.have(0)
    runs.wait_for(lambda: shared.left() == "")  # Ray hears of a driver's end after it


@pytest.fixture(autouse=True)
def database(tmp_path: Path, empty_database: Path) -> None:
    """An empty tracking database in the test's folder: making one takes seconds."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")


def launched(folder: Path, cluster: ray_clusters.Nodes, *words: str) -> tuple[runs.Run, Path]:
    words = (*FIFO, *runs.variant(folder, "paced", runs.PACED), f"cluster.address={cluster.address}", *words)
    run = runs.start(folder, "launch", *words, **cluster.environment)
    return run, folder / "results" / "toy"


def started(folder: Path, cluster: ray_clusters.Nodes, *words: str) -> tuple[runs.Run, Path]:
    run, sweep = launched(folder, cluster, *words)
    runs.wait_for(lambda: runs.reports(sweep) >= 1, run)
    return run, sweep


def hosts(sweep: Path) -> list[int]:
    """How many hosts there were, one after the other."""
    told = [event for event in runs.events(sweep) if isinstance(event, HostsStarted | HostsChanged)]
    return [number for number, _ in groupby(event.hosts for event in told)]  # else another loads, or has left


def places(cluster: ray_clusters.Nodes) -> set[int]:
    """The nodes that have a host."""
    return {place for place in range(cluster.added) if cluster.hosts(place)}


def told_at_the_end(run: runs.Run, folder: Path, sweep: Path, cluster: ray_clusters.Nodes, trials: int) -> str:
    """What a sweep has told that goes on from here without another fault."""
    runs.hurry(folder)
    runs.assert_finished(run, sweep, f"sqlite:///{folder}/mlflow.db", trials)
    runs.wait_for(lambda: cluster.left() == "")  # Ray hears of the driver's end after it
    told = run.err.read_text()
    assert "Traceback" not in told
    assert "could not be made" not in told
    return told


def test_hosts_follow_the_nodes_and_no_step_is_written_twice(tmp_path, cluster):
    """Hosts of two GPUs, which no machine has at first."""
    cluster.have(1)
    run, sweep = launched(tmp_path, cluster, "budget.trials=4", "cluster.gpus_per_host=2")
    waits = (
        "1 host is wanted, each with 2 GPUs of one machine, and no machine of the cluster has more than 1: the sweep"
    )
    runs.wait_for(lambda: waits in run.err.read_text(), run)
    assert places(cluster) == set()
    drained = cluster.add("2")
    runs.wait_for(lambda: runs.reports(sweep) >= 1, run)
    assert hosts(sweep) == [1]
    killed, joined = cluster.add("2"), cluster.add("3")
    runs.wait_for(lambda: hosts(sweep)[-1] == 3, run)
    assert places(cluster) == {drained, killed, joined}, "one on each: the third GPU has no host"
    assert cluster.left().split().count("Host") == 3
    cluster.drain(drained)
    runs.wait_for(lambda: places(cluster) == {killed, joined}, run)
    cluster.remove(drained)
    cluster.remove(killed)
    runs.wait_for(lambda: hosts(sweep)[-1] == 1, run)
    told = told_at_the_end(run, tmp_path, sweep, cluster, 4)
    assert "1 trial moves): its node is leaving the cluster" in told


@pytest.mark.chaos_long
def test_trials_whose_processes_are_on_nodes_that_go_away_go_on_elsewhere(tmp_path, cluster):
    drained, killed = cluster.have(2)
    run, sweep = started(tmp_path, cluster, "budget.trials=3")
    runs.wait_for(lambda: bool(cluster.trials(drained) and cluster.trials(killed)), run)
    cluster.add()
    cluster.drain(drained)
    runs.wait_for(lambda: "its node is leaving the cluster" in run.err.read_text(), run)
    cluster.remove(drained)
    runs.wait_for(lambda: MOVES in run.err.read_text(), run)
    assert cluster.trials(killed)
    cluster.remove(killed)
    told = told_at_the_end(run, tmp_path, sweep, cluster, 3)
    assert told.count(MOVES) >= 2


@pytest.mark.chaos_long
def test_a_sweep_that_loses_every_worker_waits_and_goes_on(tmp_path, cluster):
    [only] = cluster.have(1)
    run, sweep = started(tmp_path, cluster, "budget.trials=2")
    cluster.remove(only)
    runs.wait_for(lambda: hosts(sweep)[-1] == 0, run)
    cluster.add()
    runs.wait_for(lambda: hosts(sweep) == [1, 0, 1], run)
    told = told_at_the_end(run, tmp_path, sweep, cluster, 2)
    assert hosts(sweep) == [1, 0, 1]
    assert told.count("no host is left: trials wait until one is there") == 1
    assert told.count("host lost") == told.count("host started") == 1


@pytest.mark.chaos_long
@pytest.mark.usefixtures("hears_signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_takes_what_it_was_allowed_and_leaves_nothing_when_it_is_ended(tmp_path, cluster, how):
    cluster.have(2)
    run, sweep = started(tmp_path, cluster, "budget.trials=6", "cluster.hosts=1")
    assert hosts(sweep) == [1]
    assert cluster.left().split().count("Host") == 1
    run.process.send_signal(how)
    assert run.wait() == (130 if how == signal.SIGINT else -how), run.err.read_text()
    runs.wait_for(lambda: cluster.left() == "")
