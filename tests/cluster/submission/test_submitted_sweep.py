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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


def submitted(cluster: Head, *words: str) -> tuple[dict[str, object], str]:
    """The answer in JSON, and what was said before."""
    done = cluster.qsweep("submit", *words, "--address", cluster.address, "--detach", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def asked(cluster: Head, verb: str, *words: str) -> dict[str, Any]:
    """What a command answers in JSON; it may fail."""
    done = cluster.qsweep(verb, *words, "--address", cluster.address, "--json")
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
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
    compared = asked(cluster, "compare", result["sweep"], "t01", "t00")
    assert [trial["name"] for trial in compared["trials"]] == ["t01", "t00"]
    assert cluster.qsweep("stop", result["sweep"], "--address", cluster.address).returncode == 2


def test_it_is_watched_and_stopped_and_goes_on_from_the_laptop(cluster: Head) -> None:
    """Where its profile has put it."""
    profile = cluster.laptop / "team.yaml"
    profile.write_text("address: auto\nstorage: shared\ntracking: {uri: 'sqlite:///shared/team.db'}\n")
    words = (*LONG, f"cluster.profile={profile}", "--submission-id", "long")
    job, told = submitted(cluster, *words)
    assert job["submission_id"] == "long"
    assert "~/shared/toy; MLflow there: sqlite:///~/shared/team.db" in told
    assert_it_is_watched(cluster, "long")
    # The same again, as after an answer that was lost, starts no second sweep.
    assert submitted(cluster, *words)[0] == job
    busy = cluster.qsweep("resume", "long", "--address", cluster.address)
    assert (busy.returncode, "its job has not ended" in busy.stderr) == (2, True), busy.stderr
    stopped(cluster, "long")
    folder = cluster.home / "shared" / "toy"
    assert (folder.parent / "team.db").is_file()
    assert list(folder.glob("trials/*/snapshot-*")) != []
    assert [path.name for path in folder.parent.glob("toy*")] == ["toy"]
    other = cluster.qsweep("submit", "toy", "--submission-id", "long", "--detach", "--address", cluster.address)
    assert (other.returncode, "another job" in other.stderr) == (2, True)
    assert_it_goes_on_as_another_job(cluster, "long", profile)
    for name in ("long", "second"):
        status = asked(cluster, "status", name)
        assert (status["sweep"], status["state"], status["dir"]) == ("long", "INTERRUPTED", str(folder))


def stopped(cluster: Head, job: str) -> str:
    """What the job had printed when it had been stopped."""
    assert asked(cluster, "stop", job)["accepted"] is True
    done = cluster.qsweep("logs", job, "--address", cluster.address, "--follow")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    return done.stderr


@contextmanager
def followed(cluster: Head, job: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Follows what a job prints; the block begins once all these words have stood in a line."""
    following = subprocess.Popen(
        [sys.executable, "-m", "sweeps", "logs", job, "--address", cluster.address, "--follow"],
        cwd=cluster.laptop, env=cluster.environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert following.stderr is not None
    guard = threading.Timer(300, following.kill)
    guard.start()
    try:
        assert any(all(word in line for word in words) for line in following.stderr)
        yield following
    finally:
        guard.cancel()
        following.kill()
        following.wait(60)


def assert_it_is_watched(cluster: Head, job: str) -> None:
    """And asked, by who follows what it prints and by others."""
    with followed(cluster, job, "t00", "started") as following:
        assert asked(cluster, "status", job)["state"] == "RUNNING"
        assert asked(cluster, "stop", job, "t07")["accepted"] is False
        assert asked(cluster, "extend", job, "budget.trials=2")["accepted"] is True
        watching = cluster.qsweep("status", job, "--address", cluster.address, "--json")
        assert "extended  budget.trials is 2" in watching.stderr
        assert list(cluster.logs.glob(f"job-driver-{job}-*")) == [], "each was answered by the driver, without a job"
        # Ctrl-C ends the following alone.
        following.send_signal(signal.SIGINT)
        rest = following.stderr.read()
        assert following.wait(60) == 130
        assert f"qsweep stop {job}" in rest


def assert_it_goes_on_as_another_job(cluster: Head, first: str, profile: Path) -> None:
    """Whose id is as good as the first one's."""
    kept = (cluster.home / ".cache" / "qlora-sweeps" / "submitted").glob("*/profile.yaml")
    (of_first,) = (path for path in kept if path.read_text() == profile.read_text())
    shutil.rmtree(of_first.parent)
    words = (first, "--address", cluster.address, "--submission-id", "second", "--detach", "--json")
    done = cluster.qsweep("resume", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"submission_id": "second", "address": cluster.address, "detached": True}
    with followed(cluster, "second", "starting hosts"):
        assert f"{first}: running" in cluster.qsweep("status", "second", "--address", cluster.address).stderr
    for verb, said in (("resume", "the job second runs it"), ("stop", "second runs the sweep now: qsweep stop second")):
        refused = cluster.qsweep(verb, first, "--address", cluster.address)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
    assert "the job second runs it" in cluster.qsweep("status", first, "--address", cluster.address).stderr
    assert asked(cluster, "stop", "second", "t07")["accepted"] is False
    assert "t00" in stopped(cluster, "second")
    assert of_first.read_text() == profile.read_text(), "it travelled again, to a node that lacked it"


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
    verbs = ("status", "knows no job"), ("stop", "knows no job"), ("logs", "knows no job")
    for verb, said in (*verbs, ("resume", "no sweep of this id or name")):
        done = cluster.qsweep(verb, "nowhere", "--address", cluster.address)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_a_wrong_sweep_file_ends_before_the_cluster_is_asked() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", "submit", "toy", "budget.trials=none", "--address", "http://127.0.0.1:1"],
        capture_output=True, text=True, timeout=120, env=dict(os.environ),
    )  # fmt: skip
    assert (done.returncode, "budget.trials" in done.stderr, "no Ray" in done.stderr) == (2, True, False)
