"""The sweep's folder is deleted or moved while the sweep runs."""

from __future__ import annotations

import shutil

import chaos_runs as runs
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]


def lost(folder, lose) -> runs.Run:
    """A sweep that lost its folder after its first report, at its end."""
    run = runs.start(folder, "launch", *runs.TOY, "scheduler.kind=fifo", "training.step_seconds=0.3")
    sweep = folder / "results" / "toy"
    runs.wait_for(lambda: runs.reports(sweep) >= 1, run)
    lose(sweep)
    assert run.wait() == 1, run.err.read_text()
    told = run.err.read_text()
    assert "the sweep's folder was deleted, moved or replaced" in told
    assert "Traceback" not in told
    # Far from its end: 6 trials with 27 steps each.
    assert "COMPLETED" not in told
    assert run.answer()["best"] is None
    return run


def statuses(folder, sweep_id: str) -> set[str]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`sweep.id` = '{sweep_id}'")
    return {run.info.status for run in found}


def test_a_sweep_whose_folder_is_deleted_ends_as_failed_with_its_runs_closed(tmp_path):
    def delete(sweep) -> None:
        # Trials may be writing into it: what is left of it counts as deleted all the same.
        (sweep / "events.jsonl").unlink()
        shutil.rmtree(sweep, ignore_errors=True)

    run = lost(tmp_path, delete)
    found = statuses(tmp_path, run.answer()["sweep"])
    assert found
    assert "RUNNING" not in found
    assert "qsweep resume results" not in run.err.read_text()


@pytest.mark.chaos_long
def test_a_sweep_whose_folder_is_moved_ends_and_goes_on_at_the_new_place(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    run = lost(tmp_path, lambda sweep: sweep.rename(elsewhere))
    assert "RUNNING" not in statuses(tmp_path, run.answer()["sweep"])
    assert not (tmp_path / "results" / "toy").exists()
    runs.hurry(tmp_path)
    again = runs.start(tmp_path, "resume", str(elsewhere))
    assert again.wait() == 0, again.err.read_text()
    runs.assert_whole(elsewhere, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(elsewhere)
