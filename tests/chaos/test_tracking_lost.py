"""Between two drivers of a sweep its MLflow database is lost."""

from __future__ import annotations

import chaos_runs as runs
import pytest

from sweeps.record.folder import SweepFolder, acknowledged_bytes, noted_by

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_driver_whose_runs_are_gone_trains_on_and_another_sends_all_events_again(tmp_path):
    run = runs.start(tmp_path, "launch", *runs.TOY, "budget.steps_per_trial=9")
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: acknowledged_bytes(noted_by(SweepFolder(sweep))) > 0 and runs.reports(sweep) >= 1, run)
    runs.kill(run.process.pid)
    runs.hurry(tmp_path)
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
