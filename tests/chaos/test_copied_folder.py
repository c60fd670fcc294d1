"""A sweep's folder is copied, or moved, before the sweep goes on."""

from __future__ import annotations

import shutil

import chaos_runs as runs
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_copy_is_refused_beside_the_original_and_goes_on_in_its_place(tmp_path):
    run = runs.start(tmp_path, "launch", *runs.TOY, "scheduler.kind=fifo")
    sweep, copy = tmp_path / "results" / "toy", tmp_path / "copy"
    runs.wait_for(lambda: runs.reports(sweep) >= 1, run)
    runs.kill_all(run)
    shutil.copytree(sweep, copy)
    before = (copy / "events.jsonl").read_bytes()
    refused = runs.start(tmp_path, "resume", "copy")
    assert refused.wait() == 2
    assert f"is a copy of the sweep in {sweep}" in refused.err.read_text()
    assert (copy / "events.jsonl").read_bytes() == before
    shutil.rmtree(sweep)
    runs.hurry(tmp_path)
    again = runs.start(tmp_path, "resume", "copy")
    assert again.wait() == 0, again.err.read_text()
    assert f"the sweep's folder was {sweep} and is {copy} from now on" in again.err.read_text()
    runs.assert_whole(copy, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(copy)
