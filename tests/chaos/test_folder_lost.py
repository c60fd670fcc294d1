"""The sweep's folder is deleted while the sweep runs."""

from __future__ import annotations

import shutil

import chaos_runs as runs
import pytest
from mlflow import MlflowClient

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_sweep_whose_folder_is_deleted_ends_as_failed_with_its_runs_closed(tmp_path):
    run, sweep = runs.launched(tmp_path, *runs.TOY, "scheduler.kind=fifo", "training.step_seconds=0.3")
    # Trials may be writing into it: what is left of it counts as deleted all the same.
    (sweep / "events.jsonl").unlink()
    shutil.rmtree(sweep, ignore_errors=True)
    assert run.wait() == 1, run.err.read_text()
    told = run.err.read_text()
    assert "the sweep's folder was deleted, moved or replaced" in told
    assert "Traceback" not in told
    # Far from its end: 6 trials with 27 steps each.
    assert "COMPLETED" not in told
    assert "qsweep resume results" not in told
    assert run.answer()["best"] is None
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`sweep.id` = '{run.answer()['sweep']}'")
    assert found
    assert "RUNNING" not in {each.info.status for each in found}
