"""Between two drivers of a sweep its MLflow database is lost, or its experiment is renamed and deleted."""

from __future__ import annotations

from pathlib import Path

import chaos_runs as runs
import pytest
from mlflow import MlflowClient

from sweeps.record.folder import SweepFolder, acknowledged_bytes, noted_by

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]
WORDS = [*runs.TOY, "budget.steps_per_trial=9"]


def killed(folder: Path) -> Path:
    """The folder of a sweep whose driver was killed once MLflow had taken something of it."""
    run = runs.start(folder, "launch", *WORDS)
    sweep = folder / "results" / "toy"
    runs.wait_for(lambda: acknowledged_bytes(noted_by(SweepFolder(sweep))) > 0 and runs.reports(sweep) >= 1, run)
    runs.kill(run.process.pid)
    runs.hurry(folder)
    return sweep


def test_a_driver_whose_runs_are_gone_trains_on_and_another_sends_all_events_again(tmp_path):
    sweep = killed(tmp_path)
    for file in tmp_path.glob("mlflow.db*"):
        file.unlink()
    gone = runs.start(tmp_path, "resume", "results/toy")
    assert gone.wait() == 1, gone.err.read_text()
    assert gone.answer()["best"] is not None
    told = gone.err.read_text()
    assert f"MLflow no longer has the sweep's run: qsweep resume {sweep} --resend sends all events again" in told
    assert "no longer has runs of the sweep; send all events again with:" in told
    again = runs.start(tmp_path, "resume", "results/toy", "--resend")
    assert again.wait() == 0, again.err.read_text()
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)


def test_an_experiment_that_was_renamed_and_deleted_is_gone_on_in(tmp_path):
    sweep, client = killed(tmp_path), MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("toy").experiment_id
    client.rename_experiment(experiment, "renamed")
    client.delete_experiment(experiment)
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    restored = "the experiment renamed was deleted in MLflow: it is restored, with its runs"
    assert restored in again.err.read_text()
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
