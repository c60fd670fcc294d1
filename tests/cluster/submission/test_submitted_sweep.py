"""A sweep is submitted to a real head node, from a machine that has only its address and its token."""

from __future__ import annotations

import json
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


def asked(cluster: Head, verb: str, *words: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """What a command answers in JSON, and what it says."""
    done = cluster.qsweep(verb, *words, "--address", cluster.address, "--json")
    assert done.returncode == code, (verb, words, done.stdout, done.stderr)
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}, done.stderr


@contextmanager
def followed(cluster: Head, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a command that follows a sweep; the block begins once the sweep's trial has come to a report."""
    following = subprocess.Popen(
        [sys.executable, "-m", "sweeps", *words, "--address", cluster.address],
        cwd=cluster.laptop, env=cluster.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert following.stderr is not None
    guard = threading.Timer(300, following.kill)
    guard.start()
    try:
        assert any("t00" in line and " step " in line for line in following.stderr)
        yield following
    finally:
        guard.cancel()
        following.kill()
        following.wait(60)


def test_a_sweep_is_submitted_asked_stopped_and_goes_on_to_its_end(cluster: Head) -> None:
    """With a profile of its own, which says where its folder is; nothing of it stays on the laptop."""
    profile = cluster.laptop / "team.yaml"
    profile.write_text("address: auto\nstorage: shared\ntracking: {uri: 'sqlite:///shared/team.db'}\n")
    words = (*LONG, f"cluster.profile={profile}", "--submission-id", "long", "--detach")
    job, told = asked(cluster, "submit", *words)
    assert job == {"submission_id": "long", "address": cluster.address, "detached": True}
    assert "~/shared/toy; MLflow there: sqlite:///~/shared/team.db" in told
    # The same again, as after an answer that was lost, starts no second sweep; another sweep needs another id.
    assert asked(cluster, "submit", *words)[0] == job
    assert "another job" in asked(cluster, "submit", "toy", "--submission-id", "long", "--detach", code=2)[1]
    assert_it_is_followed_and_asked(cluster)
    assert asked(cluster, "stop", "long")[0]["accepted"] is True
    stopped = cluster.qsweep("logs", "long", "--address", cluster.address, "--follow")
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    folder = cluster.home / "shared" / "toy"
    assert (folder.parent / "team.db").is_file()
    assert list(folder.glob("trials/*/snapshot-*")) != []
    assert [path.name for path in folder.parent.glob("toy*")] == ["toy"]
    assert_it_goes_on_as_another_job(cluster, folder, profile)
    status, _ = asked(cluster, "status", "long")
    assert (status["sweep"], status["state"], status["dir"]) == ("long", "FINISHED", str(folder))
    assert [path for path in folder.glob("*.json*") if cluster.token in path.read_text()] == []
    assert [path for path in cluster.logs.glob("job-driver-*") if cluster.token in path.read_text()] == []
    jobs = requests.get(
        f"{cluster.address}/api/jobs/", headers={"Authorization": f"Bearer {cluster.token}"}, timeout=60
    )
    assert cluster.token not in jobs.text
    profile.unlink()
    assert list(cluster.laptop.iterdir()) == [cluster.laptop / ".cache"]


def assert_it_is_followed_and_asked(cluster: Head) -> None:
    """By who follows what the sweep prints and by others."""
    with followed(cluster, "logs", "long", "--follow") as following:
        status, table = asked(cluster, "status", "long")
        assert (status["state"], "t00" in table) == ("RUNNING", True)
        assert asked(cluster, "stop", "long", "t07", code=2)[0]["accepted"] is False
        assert asked(cluster, "extend", "long", "budget.wall_clock=9h")[0]["accepted"] is True
        assert "its job has not ended" in asked(cluster, "resume", "long", code=2)[1]
        # Ctrl-C ends the following alone.
        following.send_signal(signal.SIGINT)
        assert following.stderr is not None
        assert "qsweep stop long" in following.stderr.read()
        assert following.wait(60) == 130


def assert_it_goes_on_as_another_job(cluster: Head, folder: Path, profile: Path) -> None:
    """Whose id is as good as the first one's, and which gets again what a node lacks."""
    kept = (cluster.home / ".cache" / "qlora-sweeps" / "submitted").glob("*/profile.yaml")
    (of_first,) = (path for path in kept if path.read_text() == profile.read_text())
    shutil.rmtree(of_first.parent)
    with followed(cluster, "resume", "long", "--submission-id", "second", "--json") as following:
        assert "second runs the sweep now: qsweep stop second" in asked(cluster, "stop", "long", code=2)[1]
        status, told = asked(cluster, "status", "long")
        assert (status["state"], "the job second runs it" in told) == ("RUNNING", True), told
        # Its last trial: the sweep is finished then.
        assert asked(cluster, "stop", "second", "t00")[0]["accepted"] is True
        out, said = following.communicate(timeout=120)
    assert following.returncode == 0, said
    result = json.loads(out)
    assert (result["sweep"], result["submission_id"], result["dir"]) == ("long", "second", str(folder))
    assert (result["trials"], result["states"]) == (1, {"STOPPED": 1})
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
    # Ray's monitor may list a job again that was removed (see `following.wait`), but as one that has ended.
    left = [job["status"] for job in jobs.json() if str(job["submission_id"]).startswith("qsweep-doctor-")]
    assert left in ([], ["FAILED"])
    (cluster.laptop / "mine.yaml").unlink()


@pytest.mark.parametrize(("token", "said"), [("", "401"), ("f" * 40, "403")])
def test_a_token_that_is_wrong_is_told(cluster: Head, token: str, said: str) -> None:
    done = cluster.qsweep("submit", "toy", "--address", cluster.address, RAY_AUTH_TOKEN=token)
    assert (done.returncode, said in done.stderr, "RAY_AUTH_TOKEN" in done.stderr) == (2, True, True)
    assert "Traceback" not in done.stderr
    assert cluster.token not in done.stderr + done.stdout
