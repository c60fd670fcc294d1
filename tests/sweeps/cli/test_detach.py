"""A sweep that is launched with --detach has a driver of its own, which `logs` follows and `stop` ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import chaos_runs as runs
import pytest
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.record.folder import SweepFolder, is_driven

SLOW = ["toy", "scheduler.kind=fifo", "budget.trials=2", "budget.steps_per_trial=100000", "training.step_seconds=0.1"]


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_detached_sweep_is_followed_and_stopped_by_the_commands_that_its_launch_names(
    tmp_path: Path, empty_database: Path
) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    folder = SweepFolder(tmp_path / "results" / "toy")
    run = runs.start(tmp_path, "launch", *SLOW, "--detach")
    try:
        assert run.wait() == 0, run.err.read_text()
        answer, told = run.answer(), run.err.read_text()
        assert answer == {"sweep": answer["sweep"], "dir": str(folder.path), "detached": True}
        ways = ("status results/toy", "logs results/toy --follow", "stop results/toy")
        assert [way for way in ways if f"qsweep {way}\n" not in told] == []
        assert is_driven(folder)
        runs.wait_for(lambda: folder.events.exists() and runs.record(folder.path).counts() == {"RUNNING": 2})
        assert CliRunner().invoke(app, ["stop", str(folder.path)]).exit_code == 0
        followed = CliRunner().invoke(app, ["logs", str(folder.path), "--follow"])
        assert followed.exit_code == 0
        assert "starting Ray\n" in followed.stdout and "go on with:\n" in followed.stdout
        assert not is_driven(folder)
    finally:
        if is_driven(folder):
            CliRunner().invoke(app, ["stop", str(folder.path)])
