"""A cluster of machines in network namespaces: a sweep is submitted from outside, and links and machines are lost."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import chaos_runs as runs
import namespaces
import object_stores
import pytest
from namespaces import Machine, Network

from sweeps.mirror.manifest import Manifest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]
TOY = [
    "toy", "budget.trials=6", "training.snapshot_every=2", "training.step_seconds=0.3",
    "cluster.slots_per_host=1",
]  # fmt: skip
FIFO = ["scheduler.kind=fifo"]
# A node that says nothing for some 5 seconds is lost.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
# moto shows objects to whoever gives a name.
ASK = """
import sys, urllib.request as u
request = u.Request(sys.argv[1], headers={"Authorization": "AWS name"}, method=sys.argv[2])
sys.stdout.buffer.write(u.urlopen(request, timeout=10).read())
"""
RAY = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]


class Cluster:
    """A head without a GPU and workers with one declared GPU each; beside it, a store of objects and a laptop.

    The head has memory for one trial's process. Those of the others are on the workers, which have equal shares.
    """

    def __init__(self, network: Network, database: Path) -> None:
        self.network, self.database = network, database
        self.token, self._made = secrets.token_hex(20), 0
        self.laptop, self.store = network.boot("laptop"), network.boot("store")
        self.endpoint = f"http://{self.store.address}:5000"
        devnull = Path(os.devnull)
        self.store.start(devnull, devnull, "moto_server", "-H", "0.0.0.0", "-p", "5000")
        self.head = self._head()
        self.workers: list[Machine] = []
        runs.wait_for(lambda: self.asked("/bucket", "PUT") is not None)

    def _with_ray(self, kind: str, *words: str, **environment: str) -> Machine:
        """A machine on which `ray start` has run; it has the token of the cluster where Ray looks for it.

        At the second try if need be: Ray gives a node 30 s to start, whatever else the processors have to do.
        """
        for _ in range(2):
            self._made += 1
            machine = self.network.boot(f"{kind}{self._made}", RAY_AUTH_MODE="token", **environment)
            # Ray takes 127.0.0.1 for the address of a head that has no route to the internet.
            own = f"--node-ip-address={machine.address}"
            (machine.home / ".ray").mkdir()
            (machine.home / ".ray" / "auth_token").write_text(self.token)
            (machine.home / ".ray" / "auth_token").chmod(0o600)
            answer = machine.run("ray", "start", own, *words, *RAY)
            if answer.returncode == 0:
                return machine
            self.network.power_off(machine)
        raise AssertionError(answer.stdout + answer.stderr)

    def _head(self) -> Machine:
        """A head; what its driver needs of the store is in Ray's environment."""
        return self._with_ray(
            "head", "--head", "--dashboard-host=0.0.0.0", "--memory=100000000", **HEALTH, **object_stores.ENVIRONMENT,
            AWS_ENDPOINT_URL=self.endpoint,
        )  # fmt: skip

    def new_head(self) -> None:
        """The head's machine is lost, and another is the head of a new cluster, without the workers that there are."""
        self.network.power_off(self.head)
        self.head, self.workers = self._head(), []

    def join(self) -> Machine:
        """One more worker."""
        worker = self._with_ray("worker", f"--address={self.head.address}:6379", "--num-gpus=1", "--memory=1000000000")
        self.workers.append(worker)
        return worker

    def lose(self, worker: Machine) -> None:
        """A worker's machine ends."""
        self.workers.remove(worker)
        self.network.power_off(worker)

    def two(self) -> list[Machine]:
        """The two workers, started where they are not there."""
        while len(self.workers) < 2:
            self.join()
        return list(self.workers)

    @property
    def of_laptop(self) -> list[str]:
        """What the laptop's commands know of the cluster, besides the token."""
        return ["--address", f"http://{self.head.address}:8265", "--json"]

    def from_laptop(self, verb: str, *words: str) -> dict:
        """What a command answers that was given on the laptop."""
        command = ["python", "-m", "sweeps", verb, *words, *self.of_laptop]
        return json.loads(done(self.laptop, *command, RAY_AUTH_TOKEN=self.token).splitlines()[-1])

    def submitted(self, folder: Path, name: str, *words: str) -> runs.Run:
        """A sweep of this id that was submitted from the laptop, and is followed there."""
        shutil.copy(self.database, self.network.shared / f"{name}.db")
        given = [f"tracking.uri={self.tracking(name)}", *words, "--submission-id", name, *self.of_laptop]
        out, err = folder / "out", folder / "err"
        command = ["python", "-m", "sweeps", "submit", *TOY, *given]
        return runs.Run(self.laptop.start(out, err, *command, RAY_AUTH_TOKEN=self.token), out, err)

    def tracking(self, name: str) -> str:
        """The database of a sweep, on a disk that all machines see."""
        return f"sqlite:///{self.network.shared}/{name}.db"

    def asked(self, path: str, method: str = "GET") -> bytes | None:
        """What the store of objects answers; None where it does not, or has no such object."""
        answer = self.store.run("python", "-ISc", ASK, f"{self.endpoint}{path}", method)
        return None if answer.returncode else answer.stdout.encode()

    def mirrored_bytes(self, name: str) -> int:
        """How much of a sweep's event log is on the store."""
        manifest = self.asked(f"/bucket/{name}/toy/manifest.json")
        return 0 if manifest is None else Manifest.model_validate_json(manifest).log_bytes


def done(machine: Machine, *words: str, **changes: str) -> str:
    """What a command prints that ends well."""
    answer = machine.run(*words, **changes)
    assert answer.returncode == 0, f"{words}: {answer.stdout}{answer.stderr}"
    return answer.stdout


@pytest.fixture(scope="module", autouse=True)
def needed() -> None:
    reason = namespaces.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def cluster(needed, empty_database) -> Iterator[Cluster]:
    """A head; workers join when a test asks for them."""
    with namespaces.network() as network:
        yield Cluster(network, empty_database)


def training(sweep: Path) -> int:
    """How many trials have come to a report point, and train on."""
    return sum(bool(trial.evals) and not trial.state.is_final for trial in runs.record(sweep).trials.values())


def assert_nothing_lost(cluster: Cluster, name: str, sweep: Path, trials: int) -> None:
    found = runs.assert_whole(sweep, cluster.tracking(name), trials)
    runs.assert_every_step_once(sweep)
    assert {trial.state.value for trial in found.trials.values()} == {"COMPLETED"}
    assert list((cluster.head.disk / "tmp").glob("qsweep-*")) == []


def test_a_worker_that_was_cut_off_and_comes_back_adds_nothing(cluster, tmp_path):
    workers = [*cluster.two(), cluster.join()]  # one of them is free for the host that takes the place
    # Long ones: four processes start one after the other, and all trials are to train at once.
    two = ["cluster.hosts=2", "cluster.slots_per_host=2", "budget.steps_per_trial=54"]
    run = cluster.submitted(tmp_path, "cut", *FIFO, "storage=of-cut", *two)
    sweep = cluster.head.home / "of-cut" / "toy"
    runs.wait_for(lambda: training(sweep) == 4, run)
    assert all(worker.processes("ray::TrialStub") for worker in workers), "one each, and one beside it"
    cut = next(worker for worker in workers if worker.processes("ray::Host"))
    cluster.network.cut(cut)
    runs.wait_for(lambda: f"on {cut.address}, 2 trials); another is made" in run.err.read_text(), run)
    # It knows nothing of that, and its host goes on until the link is back.
    assert cut.processes("ray::Host")
    cluster.network.put_back(cut)
    known = runs.reports(sweep)
    runs.wait_for(lambda: runs.reports(sweep) > known, run)
    status = cluster.from_laptop("status", "cut")
    assert (status["dir"], status["planned_trials"]) == (f"{cluster.head.environment['HOME']}/of-cut/toy", 6), status
    runs.wait_for(lambda: cut.processes("ray::Host") == [])
    cluster.lose(cut)
    assert run.wait() == 0, run.err.read_text()
    assert_nothing_lost(cluster, "cut", sweep, 6)
    told = run.err.read_text()
    assert "host started" in told, "in place of the one that was cut off"
    assert "its process is lost: another is made, and the trial goes on" in told
    assert "Traceback" not in told


def test_the_heads_machine_is_lost_and_the_sweep_goes_on_elsewhere(cluster, tmp_path):
    cluster.two()
    run = cluster.submitted(tmp_path, "lost", "storage=s3://bucket/lost", "training.step_seconds=0.8")
    sweep = cluster.head.home / "results" / "toy"
    runs.wait_for(lambda: runs.reports(sweep) >= 2, run)
    before = cluster.mirrored_bytes("lost")
    runs.wait_for(lambda: cluster.mirrored_bytes("lost") > before, run)
    cluster.new_head()
    assert not sweep.exists()
    cluster.join()
    words = ["resume", "s3://bucket/lost/toy", "--take-over", "--submission-id", "again", *cluster.of_laptop]
    again = cluster.laptop.run("python", "-m", "sweeps", *words, RAY_AUTH_TOKEN=cluster.token)
    assert again.returncode == 0, again.stderr
    assert "the whole folder is on s3://bucket/lost/toy" in again.stderr
    sweep = cluster.head.home / "results" / "toy"
    runs.assert_every_step_once(sweep)
    runs.assert_none_running(sweep, cluster.tracking("lost"))
    assert len(runs.record(sweep).trials) == 6
    assert json.loads(again.stdout.splitlines()[-1])["best"]["trial_key"] == runs.undisturbed_best(sweep)
    assert cluster.from_laptop("status", "again")["state"] == "FINISHED"
    assert cluster.mirrored_bytes("lost") == (sweep / "events.jsonl").stat().st_size
    assert json.loads(cluster.asked("/bucket/lost/toy/manifest.json"))["has_left"]
    runs.wait_for(lambda: "the connection is lost" in run.err.read_text())
    run.process.kill()
