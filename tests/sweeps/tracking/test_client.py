"""The database that runs go to, where artifacts lie, and how often a request is sent."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest
import web_servers
from killed_writers import kill_in_transaction
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sweep_events import begun

from sweeps.config.uris import artifact_root
from sweeps.errors import StorageError
from sweeps.record.folder import EventLog
from sweeps.tracking import timeouts
from sweeps.tracking.client import Runs, make_database
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.metric_points import MetricPoint
from sweeps.tracking.registry import Registry
from sweeps.tracking.writer import Writer


def experiments(file: Path) -> set[str]:
    return {found.name for found in MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()}


def test_a_database_that_another_sweep_made_meanwhile_is_kept(empty_database, tmp_path):
    file = tmp_path / "new" / "mlflow.db"

    def another_is_faster(draft: Path) -> None:
        assert not file.exists(), "the database is there before it is whole"
        shutil.copy(empty_database, draft)
        shutil.copy(empty_database, file)
        MlflowClient(tracking_uri=f"sqlite:///{file}").create_experiment("theirs")

    make_database(f"sqlite:///{file}", another_is_faster)
    assert experiments(file) == {"Default", "theirs"}
    for made in (file, empty_database):
        assert [path.name for path in made.parent.iterdir()] == ["mlflow.db"]


def test_a_new_database_gets_nothing_of_a_lost_one_whose_writer_was_killed(empty_database, tmp_path):
    def make() -> None:
        make_database(f"sqlite:///{file}", lambda draft: shutil.copy(empty_database, draft))

    file = Path(shutil.copy(empty_database, tmp_path / "mlflow.db"))
    kill_in_transaction(file, "update experiments set name = 'lost'", "update experiments set name = 'half'")
    file.unlink()
    with pytest.raises(StorageError, match=r"mlflow\.db: is not there, but .*mlflow\.db-.+ is: delete that, or put"):
        make()
    for journal in tmp_path.iterdir():
        journal.unlink()
    make()
    assert experiments(file) == {"Default"}


def test_a_database_that_is_deleted_while_it_is_open_refuses_in_one_line(empty_database, tmp_path, capfd):
    file = Path(shutil.copy(empty_database, tmp_path / "mlflow.db"))
    runs = Runs(f"sqlite:///{file}", "ours")
    run = runs.create("x", {"sweep.id": "x-1"}, 0.0)
    file.unlink()
    capfd.readouterr()
    with pytest.raises(MlflowException, match="attempt to write a readonly database"):
        runs.log(run, [MetricPoint("loss", 1.0, 0.0, 1)])
    # MLflow prints a hundred lines of its own, each time that the writer tries again.
    assert capfd.readouterr() == ("", "")


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
        ("sqlite:////data/mlflow.db?timeout=60", "file:///data/mlartifacts"),
        ("http://host:5000", None),
        ("postgresql://host/db", None),
    ],
)
def test_artifacts_go_beside_a_sqlite_file_and_elsewhere_where_the_server_says(uri, root):
    assert artifact_root(uri) == root


@pytest.fixture
def busy():
    """The URI of a server that answers 503 once, and then as one that holds nothing; and what it was asked."""
    asked: list[str] = []

    def answer(request: web_servers.Request) -> tuple[int, str]:
        asked.append(request.path)
        return 503 if len(asked) == 1 else 200, "{}"

    with web_servers.answering_by(answer) as address:
        yield f"http://{address}", asked


def test_a_promotion_goes_on_after_an_answer_that_says_later(busy):
    uri, asked = busy
    assert Registry(uri).models() == []
    assert len(asked) == 2
    asked.clear()
    assert not Lookup(uri).holds("x-1")
    assert len(asked) == 3, "experiments twice, then runs"


def test_the_writer_alone_repeats_what_it_sends(busy, folder, monkeypatch):
    uri, asked = busy
    monkeypatch.setattr(timeouts, "FIRST_PAUSE_SECONDS", 0.001)
    with closing(EventLog(folder.events)) as log:
        log.append(begun())
    said: list[str] = []
    asks = Mock(side_effect=lambda *_: MlflowClient(uri).search_experiments())
    writer = Writer(folder, Mock(apply=asks, experiment_id="7"), said.append)
    writer.start()
    assert writer.drain(50.0) == 0
    assert (asks.call_count, len(asked)) == (2, 2)
    assert len(said) == 2, "trouble, and its end"
    # A promotion in the same process comes after it.
    asked.clear()
    assert Registry(uri).models() == []
    assert len(asked) == 2
