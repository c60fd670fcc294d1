"""The database and the experiment that runs go to, and where artifacts lie."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest
from killed_writers import kill_in_transaction
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sweep_events import begun

from sweeps.config.uris import artifact_root
from sweeps.errors import StorageError
from sweeps.record.folder import EventLog, SweepFolder
from sweeps.tracking.client import Runs, make_database
from sweeps.tracking.metric_points import MetricPoint
from sweeps.tracking.writer import Writer


def test_a_new_database_is_whole_and_alone_in_its_folder(empty_database):
    assert [path.name for path in empty_database.parent.iterdir()] == ["mlflow.db"]
    assert MlflowClient(tracking_uri=f"sqlite:///{empty_database}").search_runs(["0"]) == []


def test_a_database_that_another_sweep_made_meanwhile_is_kept(empty_database, tmp_path):
    file = tmp_path / "new" / "mlflow.db"

    def another_is_faster(draft: Path) -> None:
        assert not file.exists(), "the database is there before it is whole"
        shutil.copy(empty_database, draft)
        shutil.copy(empty_database, file)
        MlflowClient(tracking_uri=f"sqlite:///{file}").create_experiment("theirs")

    make_database(f"sqlite:///{file}", another_is_faster)
    assert names(file) == {"Default", "theirs"}
    assert [path.name for path in file.parent.iterdir()] == ["mlflow.db"]


def names(file: Path) -> set[str]:
    """The experiments in a database."""
    return {found.name for found in MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()}


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_new_database_gets_nothing_of_a_lost_one_whose_writer_was_killed(empty_database, tmp_path, mode):
    def make() -> None:
        make_database(f"sqlite:///{file}", lambda draft: shutil.copy(empty_database, draft))

    file = Path(shutil.copy(empty_database, tmp_path / "mlflow.db"))
    kill_in_transaction(file, "update experiments set name = 'lost'", "update experiments set name = 'half'", mode)
    file.unlink()
    with pytest.raises(StorageError, match=r"mlflow\.db: is not there, but .*mlflow\.db-.+ is: delete that, or put"):
        make()
    for journal in tmp_path.iterdir():
        journal.unlink()
    make()
    assert names(file) == {"Default"}


def test_the_journal_of_another_sweeps_new_database_is_not_taken_for_one_of_a_lost_one(empty_database, tmp_path):
    def another_is_faster(draft: Path) -> None:
        for file in (draft, tmp_path / "mlflow.db", tmp_path / "mlflow.db-journal"):
            shutil.copy(empty_database, file)

    make_database(f"sqlite:///{tmp_path}/mlflow.db", another_is_faster)
    assert (tmp_path / "mlflow.db-journal").exists()


def test_a_database_that_is_deleted_while_it_is_open_refuses_in_one_line(empty_database, tmp_path, capfd):
    file = Path(shutil.copy(empty_database, tmp_path / "mlflow.db"))
    folder = SweepFolder(tmp_path / "sweep")
    folder.path.mkdir()
    runs = Runs(f"sqlite:///{file}", "ours")
    run = runs.create("x", {"sweep.id": "x-1"}, 0.0)
    file.unlink()
    capfd.readouterr()
    with pytest.raises(MlflowException) as caught:
        runs.log(run, [MetricPoint("loss", 1.0, 0.0, 1)])
    # MLflow prints a hundred lines of its own, each time that the writer tries again.
    assert capfd.readouterr() == ("", "")
    with closing(EventLog(folder.events)) as log:
        log.append(begun())
    said: list[str] = []
    refuses_once = Mock(side_effect=[caught.value, None])
    writer = Writer(folder, Mock(apply=refuses_once, is_refusal=lambda _: False, experiment_id="7"), said.append)
    writer.start()
    assert writer.drain(50.0) == 0
    told = "tracking: OperationalError: attempt to write a readonly database; events are kept and sent again"
    assert said == [told, "tracking: back, everything is delivered"]


def test_a_database_whose_making_failed_is_not_there(tmp_path):
    def fails(draft: Path) -> None:
        draft.write_bytes(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        make_database(f"sqlite:///{tmp_path}/mlflow.db", fails)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "root"),
    [
        ("sqlite:////data/mlflow.db", "file:///data/mlartifacts"),
        ("sqlite:////data/mlflow.db?timeout=60", "file:///data/mlartifacts"),
        ("http://host:5000", None),
        ("postgresql://host/db", None),
    ],
)
def test_artifacts_go_beside_a_sqlite_file_and_elsewhere_where_the_server_says(uri, root):
    assert artifact_root(uri) == root
