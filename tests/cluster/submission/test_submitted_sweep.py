"""A sweep is submitted to a real head node, from a machine that has only its address and its token."""

from __future__ import annotations

import itertools
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
LONG = ("toy", "scheduler.kind=fifo", "budget.trials=1", "budget.steps_per_trial=10000", "training.step_seconds=0.2")


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
def followed(cluster: Head, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Runs a command that follows a sweep, and what it has said when the sweep's trial comes to a report."""
    following = subprocess.Popen(
        [sys.executable, "-m", "sweeps", *words, "--address", cluster.address],
        cwd=cluster.laptop, env=cluster.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert following.stderr is not None
    guard = threading.Timer(300, following.kill)
    guard.start()
    try:
        before = list(itertools.takewhile(lambda line: not ("t00" in line and " step " in line), following.stderr))
        assert following.poll() is None, before
        yield following, "".join(before)
    finally:
        guard.cancel()
        following.kill()
        following.wait(60)


@pytest.mark.usefixtures("hears_signals")
def test_a_sweep_is_submitted_followed_stopped_and_goes_on_to_its_end(cluster: Head) -> None:
    """With a profile of its own, which says where its folder is; nothing of it stays on the laptop."""
    profile = cluster.laptop / "team.yaml"
    profile.write_text("address: auto\nstorage: shared\ntracking: {uri: 'sqlite:///shared/team.db'}\n")
    with followed(cluster, "submit", *LONG, f"cluster.profile={profile}", "--submission-id", "long") as (
        following,
        told,
    ):
        assert "~/shared/toy; MLflow there: sqlite:///~/shared/team.db" in told
        status, table = asked(cluster, "status", "long")
        assert (status["state"], "t00" in table) == ("RUNNING", True)
        assert "its job has not ended" in asked(cluster, "resume", "long", code=2)[1]
        # Ctrl-C ends the following alone.
        following.send_signal(signal.SIGINT)
        assert following.stderr is not None
        assert "qsweep stop long" in following.stderr.read()
        assert following.wait(60) == 130
    assert asked(cluster, "stop", "long")[0]["accepted"] is True
    stopped = cluster.qsweep("logs", "long", "--address", cluster.address, "--follow")
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    folder = cluster.home / "shared" / "toy"
    assert (folder.parent / "team.db").is_file()
    assert list(folder.glob("trials/*/snapshot-*")) != []
    assert_it_goes_on_as_another_job(cluster, folder, profile)
    hidden = {"Authorization": f"Bearer {cluster.token}"}
    jobs = requests.get(f"{cluster.address}/api/jobs/", headers=hidden, timeout=60).text
    written = [path.read_text() for path in (*folder.glob("*.json*"), *cluster.logs.glob("job-driver-*"))]
    assert [text for text in (jobs, *written) if cluster.token in text] == []
    profile.unlink()
    assert list(cluster.laptop.iterdir()) == [cluster.laptop / ".cache"]


def assert_it_goes_on_as_another_job(cluster: Head, folder: Path, profile: Path) -> None:
    """Whose id is as good as the first one's, and which gets again what a node lacks."""
    kept = (cluster.home / ".cache" / "qlora-sweeps" / "submitted").glob("*/profile.yaml")
    (of_first,) = (path for path in kept if path.read_text() == profile.read_text())
    shutil.rmtree(of_first.parent)
    with followed(cluster, "resume", "long", "--submission-id", "second", "--json") as (following, _):
        # Its last trial: the sweep is finished then.
        assert asked(cluster, "stop", "second", "t00")[0]["accepted"] is True
        out, said = following.communicate(timeout=120)
    assert following.returncode == 0, said
    result = json.loads(out)
    assert (result["sweep"], result["submission_id"], result["dir"]) == ("long", "second", str(folder))
    assert (result["trials"], result["states"]) == (1, {"STOPPED": 1})
    assert of_first.read_text() == profile.read_text(), "it travelled again, to a node that lacked it"
