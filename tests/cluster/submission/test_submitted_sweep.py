"""A sweep is submitted to a real head node, from a machine that has only its address and its token."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import requests
from ray_heads import Head, head

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]
# One trial, which goes on until it is stopped.
LONG = ("toy", "scheduler.kind=fifo", "budget.trials=1", "budget.steps_per_trial=2000", "training.step_seconds=1")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Head]:
    with head() as started:
        yield started


def submitted(cluster: Head, *words: str) -> dict[str, object]:
    done = cluster.qsweep("submit", *words, "--address", cluster.address, "--detach", "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def asked(cluster: Head, verb: str, *words: str) -> dict[str, object]:
    """What a command answers in JSON; it may fail."""
    done = cluster.qsweep(verb, *words, "--address", cluster.address, "--json")
    assert done.stdout, done.stderr
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_it_is_followed_to_its_end(cluster: Head) -> None:
    """With a file and overrides of one's own; nothing of it stays on the laptop, and the token is in no file."""
    (cluster.laptop / "mine.yaml").write_text("name: mine\ntrainable: toy\nsearch_space: toy\n")
    before = sorted(cluster.laptop.rglob("*"))
    short = ("mine.yaml", "budget.trials=2", "budget.steps_per_trial=3", "scheduler.kind=fifo")
    done = cluster.qsweep("submit", *short, "--address", cluster.address, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["trials"] == 2
    assert result["dir"] == str(cluster.home / "results" / "mine")
    assert result["sweep"] == result["submission_id"]
    assert (cluster.home / "mlflow.db").is_file()
    assert "step 3" in done.stderr
    assert sorted(cluster.laptop.rglob("*")) == before
    sent = [done.stderr, done.stdout, *(path.read_text() for path in cluster.home.glob("results/mine/*.json*"))]
    assert [text for text in sent if cluster.token in text] == []
    assert cluster.token not in (cluster.qsweep("logs", result["sweep"], "--address", cluster.address).stdout)
    assert asked(cluster, "status", result["sweep"])["state"] == "FINISHED"
    assert cluster.qsweep("stop", result["sweep"], "--address", cluster.address).returncode == 2


def test_it_is_found_where_its_profile_has_put_it(cluster: Head) -> None:
    profile = cluster.laptop / "team.yaml"
    profile.write_text("address: auto\nstorage: shared\ntracking: {uri: 'sqlite:///shared/team.db'}\n")
    short = ("toy", "budget.trials=1", "budget.steps_per_trial=2", "scheduler.kind=fifo", "cluster.profile=team.yaml")
    done = cluster.qsweep("submit", *short, "--address", cluster.address, "--submission-id", "team")
    profile.unlink()
    assert done.returncode == 0, done.stderr
    assert "~/shared/toy; MLflow there: sqlite:///~/shared/team.db" in done.stderr
    assert (cluster.home / "shared" / "team.db").is_file()
    assert asked(cluster, "status", "team")["dir"] == str(cluster.home / "shared" / "toy")


def test_it_is_watched_and_stopped_from_the_laptop(cluster: Head) -> None:
    job = submitted(cluster, *LONG, "--submission-id", "long")
    assert job["submission_id"] == "long"
    following = subprocess.Popen(
        [sys.executable, "-m", "sweeps", "logs", "long", "--address", cluster.address, "--follow"],
        cwd=cluster.laptop, env=cluster.environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert following.stderr is not None
    guard = threading.Timer(300, following.kill)
    guard.start()
    try:
        printed = next((line for line in following.stderr if "t00" in line and "started" in line), None)
        assert printed is not None
        # The same again, as after an answer that was lost, starts no second sweep.
        assert submitted(cluster, *LONG, "--submission-id", "long") == job
        assert asked(cluster, "status", "long")["state"] == "RUNNING"
        assert asked(cluster, "stop", "long", "t07")["accepted"] is False
        assert asked(cluster, "extend", "long", "budget.trials=2")["accepted"] is True
        watching = cluster.qsweep("status", "long", "--address", cluster.address, "--json")
        assert "extended  budget.trials is 2" in watching.stderr
        assert list(cluster.logs.glob("job-driver-long-*")) == [], "each was answered by the driver, without a job"
        # Ctrl-C ends the following alone.
        following.send_signal(signal.SIGINT)
        rest = following.stderr.read()
        assert following.wait(60) == 130
        assert "qsweep stop long" in rest
    finally:
        guard.cancel()
        following.kill()
        following.wait(60)
    assert asked(cluster, "stop", "long")["accepted"] is True
    done = cluster.qsweep("logs", "long", "--address", cluster.address, "--follow")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    status = asked(cluster, "status", "long")
    assert status["state"] == "INTERRUPTED"
    folder = cluster.home / "results" / "toy"
    assert status["dir"] == str(folder)
    assert list(folder.glob("trials/*/snapshot-*")) != []
    assert [path.name for path in folder.parent.glob("toy*")] == ["toy"]
    other = cluster.qsweep("submit", "toy", "--submission-id", "long", "--detach", "--address", cluster.address)
    assert (other.returncode, "another job" in other.stderr) == (2, True)


def test_it_goes_on_from_the_laptop(cluster: Head) -> None:
    """As another job, whose id is as good as the first one's."""

    def wait_for(job: str, words: str) -> None:
        while words not in cluster.qsweep("status", job, "--address", cluster.address).stderr:
            continue  # Each look takes seconds.

    def stopped(job: str) -> str:
        assert asked(cluster, "stop", job)["accepted"] is True
        done = cluster.qsweep("logs", job, "--address", cluster.address, "--follow")
        assert done.returncode == 128 + signal.SIGTERM, done.stderr
        return done.stderr

    profile = cluster.laptop / "team.yaml"
    profile.write_text("address: auto\n")
    submitted(cluster, *LONG, "name=again", f"cluster.profile={profile}", "--submission-id", "first")
    wait_for("first", "t00")
    busy = cluster.qsweep("resume", "first", "--address", cluster.address)
    assert (busy.returncode, "its job has not ended" in busy.stderr) == (2, True), busy.stderr
    stopped("first")
    kept = (cluster.home / ".cache" / "qlora-sweeps" / "submitted").glob("*/profile.yaml")
    (of_first,) = (path for path in kept if path.read_text() == profile.read_text())
    shutil.rmtree(of_first.parent)
    words = ("first", "--address", cluster.address, "--submission-id", "second", "--detach", "--json")
    done = cluster.qsweep("resume", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"submission_id": "second", "address": cluster.address, "detached": True}
    wait_for("second", "first: running")
    for verb, said in (("resume", "the job second runs it"), ("stop", "second runs the sweep now: qsweep stop second")):
        refused = cluster.qsweep(verb, "first", "--address", cluster.address)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
    assert "the job second runs it" in cluster.qsweep("status", "first", "--address", cluster.address).stderr
    assert asked(cluster, "stop", "second", "t07")["accepted"] is False
    assert "t00" in stopped("second")
    assert of_first.read_text() == "address: auto\n", "it travelled again, to a node that lacked it"
    for job in ("first", "second"):
        status = asked(cluster, "status", job)
        assert (status["sweep"], status["state"]) == ("first", "INTERRUPTED")
        assert status["dir"] == str(cluster.home / "results" / "again")
    nowhere = cluster.qsweep("resume", "nowhere", "--address", cluster.address)
    assert (nowhere.returncode, "no sweep of this id or name" in nowhere.stderr) == (2, True), nowhere.stderr


def test_the_cluster_is_looked_at_from_the_laptop(cluster: Head) -> None:
    (cluster.laptop / "mine.yaml").write_text("name: mine\ntrainable: toy\nsearch_space: toy\n")
    words = ("doctor", "mine.yaml", "--address", cluster.address, "--json")
    done = cluster.qsweep(*words, timeout=600, QSWEEP_DOCTOR_PATIENCE="4")
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert {finding["node"] for finding in findings} == {"driver", "127.0.0.1"}
    storage = [finding["seen"] for finding in findings if finding["check"] == "storage"]
    assert len(storage) == 2 and all(str(cluster.home) in seen for seen in storage), "the head node's home"
    jobs = requests.get(
        f"{cluster.address}/api/jobs/", headers={"Authorization": f"Bearer {cluster.token}"}, timeout=60
    )
    assert [job for job in jobs.json() if str(job["submission_id"]).startswith("qsweep-doctor-")] == []


@pytest.mark.parametrize(("token", "said"), [("", "401"), ("f" * 40, "403")])
def test_a_token_that_is_wrong_is_told(cluster: Head, token: str, said: str) -> None:
    done = cluster.qsweep("submit", "toy", "--address", cluster.address, RAY_AUTH_TOKEN=token)
    assert (done.returncode, said in done.stderr, "RAY_AUTH_TOKEN" in done.stderr) == (2, True, True)
    assert "Traceback" not in done.stderr
    assert cluster.token not in done.stderr + done.stdout


def test_a_job_that_is_not_there_is_a_mistake(cluster: Head) -> None:
    for verb in ("status", "stop", "logs"):
        done = cluster.qsweep(verb, "nowhere", "--address", cluster.address)
        assert (done.returncode, "knows no job" in done.stderr) == (2, True)


def test_a_wrong_sweep_file_ends_before_the_cluster_is_asked() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", "submit", "toy", "budget.trials=none", "--address", "http://127.0.0.1:1"],
        capture_output=True, text=True, timeout=120, env=dict(os.environ),
    )  # fmt: skip
    assert (done.returncode, "budget.trials" in done.stderr, "no Ray" in done.stderr) == (2, True, False)
