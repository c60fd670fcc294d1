"""Storage that is full, read-only, or given back."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager

import chaos_runs as runs
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]
WORDS = [*runs.TOY, "scheduler.kind=fifo", "training.snapshot_every=2", "training.step_seconds=0.05"]


def mount(folder, options: str) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@contextmanager
def mounted(folder, options: str):
    """A file system of its own at `folder`, with these mount options."""
    folder.mkdir()
    mount(folder, options)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_the_sweep_in_order_and_resume_goes_on(tmp_path):
    words = ["launch", *WORDS, *runs.heavy(tmp_path), "storage=disk"]
    with mounted(tmp_path / "disk", "size=5m"):
        run = runs.start(tmp_path, *words)
        sweep = tmp_path / "disk" / "toy"
        assert run.wait() == 1, run.err.read_text()
        told = run.err.read_text()
        assert "No space left on device; make room, then go on with qsweep resume" in told
        assert f"qsweep resume {sweep}" in told
        assert "Traceback" not in told
        runs.assert_none_running(sweep, f"sqlite:///{tmp_path}/mlflow.db")
        mount(tmp_path / "disk", "remount,size=100m")
        again = runs.start(tmp_path, "resume", "disk/toy")
        runs.assert_finished(again, sweep, f"sqlite:///{tmp_path}/mlflow.db")


def test_storage_that_cannot_be_written_is_refused_before_anything_starts(tmp_path):
    with mounted(tmp_path / "disk", "ro"):
        run = runs.start(tmp_path, "launch", *WORDS, "storage=disk")
        assert run.wait() == 2
        told = run.err.read_text()
        assert f"storage: {tmp_path}/disk cannot be written: {tmp_path}/disk is read-only" in told
        assert "starting Ray" not in told
        assert "Traceback" not in told
