"""The object store is lost, or its driver is replaced, while a sweep's folder is mirrored."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import chaos_runs as runs
import object_stores
import psutil
import pytest

from sweeps.mirror.manifest import Manifest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture
def store():
    with object_stores.running() as found:
        yield found


def start(store, folder, *words, **environment):
    """`qsweep WORDS` with what it needs to reach the store."""
    folder.mkdir(exist_ok=True)
    return runs.start(folder, *words, **store.environment, **environment)


def start_elsewhere(store, tmp_path, *words):
    """`qsweep WORDS` in tmp_path/b, as on a machine that does not have tmp_path/a."""
    can_hide = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {tmp_path}/a"]
    if shutil.which("unshare") is None or subprocess.run(can_hide, capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespace can be made here")
    (tmp_path / "b").mkdir()
    command = f'mount -t tmpfs none {tmp_path}/a && exec "$0" -m sweeps "$@" --json'
    out, err = tmp_path / "b" / "out", tmp_path / "b" / "err"
    environment = {**os.environ, **store.environment}
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", command, sys.executable, *words],
            cwd=tmp_path / "b", stdout=stdout, stderr=stderr, env=environment, start_new_session=True,
        )  # fmt: skip
    return runs.Run(process, out, err)


def mirrored_bytes(store):
    """How much of the event log is on the store."""
    if "toy/manifest.json" not in store.names("toy"):
        return 0
    return Manifest.model_validate_json(store.read("toy/manifest.json")).log_bytes


def test_an_object_store_that_goes_away_is_only_a_delay_and_one_that_stays_away_is_told_at_the_end(store, tmp_path):
    words = [*runs.TOY, f"storage={store.uri}", "scheduler.kind=fifo", "budget.steps_per_trial=81"]
    run = start(store, tmp_path / "a", "launch", *words, "training.step_seconds=0.4", QSWEEP_DRAIN_SECONDS="4")
    sweep = tmp_path / "a" / "results" / "toy"
    runs.wait_for(lambda: mirrored_bytes(store) > 0, run)
    known = mirrored_bytes(store)
    store.stop()
    seen = runs.reports(sweep)
    runs.wait_for(lambda: "training goes on, and the mirror follows later" in run.err.read_text(), run)
    runs.wait_for(lambda: runs.reports(sweep) > seen + 1, run)
    store.start()
    runs.wait_for(lambda: mirrored_bytes(store) > known, run)
    store.stop()
    runs.hurry(tmp_path)
    assert run.wait() == 1, run.err.read_text()
    told = run.err.read_text()
    assert f"{store.uri}/toy lacks " in told
    assert f"resume {sweep}" in told
    store.start()
    again = start(store, tmp_path / "a", "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    assert mirrored_bytes(store) == (sweep / "events.jsonl").stat().st_size


def test_a_driver_that_was_frozen_and_replaced_ends_in_order(store, tmp_path):
    words = [*runs.TOY, f"storage={store.uri}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]
    run = start(store, tmp_path / "a", "launch", *words, "training.step_seconds=0.5")
    sweep = tmp_path / "a" / "results" / "toy"
    runs.wait_for(lambda: runs.reports(sweep) >= 1 and mirrored_bytes(store) > 0, run)
    frozen = psutil.Process(run.process.pid)
    frozen.suspend()
    first = store.document("toy/manifest.json")["driver"]
    other = start_elsewhere(store, tmp_path, "resume", f"{store.uri}/toy", "--take-over")
    runs.wait_for(
        lambda: (found := store.document("toy/manifest.json"))["driver"] != first and not found["has_left"], other
    )
    frozen.resume()
    assert run.wait() == 1, run.err.read_text()
    runs.hurry(tmp_path)
    told = run.err.read_text()
    assert "has taken this sweep over" in told
    assert "go on with:" not in told
    assert other.wait() == 0, other.err.read_text()
    found = tmp_path / "b" / "results" / "toy"
    runs.assert_every_step_once(found)
    runs.assert_none_running(found, f"sqlite:///{tmp_path}/mlflow.db")
    assert mirrored_bytes(store) == (found / "events.jsonl").stat().st_size
