"""Between two drivers of a sweep its MLflow database is lost or put back, or its experiment renamed or deleted."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import chaos_runs as runs
import pytest
from mlflow import MlflowClient

from sweeps.record.events import TrialEnded
from sweeps.record.folder import SweepFolder, acknowledged_bytes, noted_by, read_events

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]
WORDS = [*runs.TOY, "budget.steps_per_trial=9"]
DATABASE = "mlflow.db"


def lost(folder: Path) -> None:
    (folder / DATABASE).unlink()


def put_back(folder: Path) -> None:
    # The driver may have been killed in a transaction, and its journal is not the backup's.
    (folder / f"{DATABASE}-journal").unlink(missing_ok=True)
    shutil.copy(folder / "backup.db", folder / DATABASE)


def renamed(folder: Path) -> None:
    client = MlflowClient(f"sqlite:///{folder / DATABASE}")
    client.rename_experiment(client.get_experiment_by_name("toy").experiment_id, "renamed")


def renamed_and_deleted(folder: Path) -> None:
    renamed(folder)
    client = MlflowClient(f"sqlite:///{folder / DATABASE}")
    client.delete_experiment(client.get_experiment_by_name("renamed").experiment_id)


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        (lost, "MLflow no longer has the sweep's run: all events are sent again"),
        (put_back, "all events are sent again"),
        (renamed, "the experiment toy is called renamed in MLflow now"),
        (renamed_and_deleted, "the experiment renamed was deleted in MLflow: it is restored, with its runs"),
    ],
)
def test_a_sweep_whose_driver_was_killed_goes_on_whole(tmp_path, happens: Callable[[Path], None], told: str):
    run = runs.start(tmp_path, "launch", *WORDS)
    sweep = tmp_path / "results" / "toy"

    def ended() -> int:
        """Trials whose end MLflow has taken: what it has not taken it cannot lose."""
        taken = acknowledged_bytes(noted_by(SweepFolder(sweep)))
        told = read_events(sweep / "events.jsonl")
        return sum(isinstance(event, TrialEnded) for event, offset in told if offset <= taken)

    runs.wait_for(lambda: (sweep / "tracking.json").exists() and runs.reports(sweep) >= 1, run)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as now, closing(sqlite3.connect(tmp_path / "backup.db")) as copy:
        now.backup(copy)
    # Not those that MLflow is known to have taken: the backup may have one of which the note does not say so yet.
    before = sum(isinstance(event, TrialEnded) for event in runs.events(sweep))
    runs.wait_for(lambda: ended() > before, run)
    runs.kill(run.process.pid)
    runs.hurry(tmp_path)
    happens(tmp_path)
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    assert told in again.err.read_text()
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/{DATABASE}", 6)
    # The next driver finds everything as it was left.
    last = runs.start(tmp_path, "resume", "results/toy")
    assert last.wait() == 0, last.err.read_text()
    assert "sent again" not in last.err.read_text()
