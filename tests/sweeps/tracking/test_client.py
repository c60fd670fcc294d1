"""The database and the experiment that runs go to, and where artifacts lie."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from sqlalchemy.exc import OperationalError

from cluster.errors import ConnectionFailed
from sweeps.config.uris import artifact_root
from sweeps.errors import Failed, StorageError, SweepError
from sweeps.tracking import client as tracking_client
from sweeps.tracking.client import Runs


def test_a_new_database_is_whole_and_alone_in_its_folder(empty_database):
    assert [path.name for path in empty_database.parent.iterdir()] == ["mlflow.db"]
    assert MlflowClient(tracking_uri=f"sqlite:///{empty_database}").search_runs(["0"]) == []


def test_a_database_that_another_sweep_made_meanwhile_is_kept(empty_database, tmp_path, monkeypatch):
    file = tmp_path / "new" / "mlflow.db"

    def migrate(draft: Path) -> None:
        assert not file.exists(), "the database is there before it is whole"
        shutil.copy(empty_database, draft)
        shutil.copy(empty_database, file)
        MlflowClient(tracking_uri=f"sqlite:///{file}").create_experiment("theirs")

    monkeypatch.setattr(tracking_client, "_migrate", migrate)
    Runs(f"sqlite:///{file}", "ours")
    names = {found.name for found in MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()}
    assert names == {"Default", "theirs", "ours"}
    assert [path.name for path in file.parent.iterdir()] == ["mlflow.db"]


def test_a_database_whose_making_failed_is_not_there(tmp_path, monkeypatch):
    def migrate(draft: Path) -> None:
        draft.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(tracking_client, "_migrate", migrate)
    with pytest.raises(OSError, match="No space left"):
        Runs(f"sqlite:///{tmp_path}/mlflow.db", "ours")
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


def test_a_store_that_is_away_is_told_apart_from_what_is_not_in_it():
    answer = requests.Response()
    answer.status_code = 404
    of_server = RestException({"error_code": "INTERNAL_ERROR", "message": "database is gone"})
    for error, is_away in (
        (MlflowException("API request to http://x failed with exception refused"), True),
        (of_server, True),
        (MlflowException("locked", error_code=TEMPORARILY_UNAVAILABLE), True),
        (requests.ConnectionError("refused"), True),
        (OperationalError("select", {}, Exception("gone")), True),
        (requests.HTTPError("no file", response=answer), False),
        (MlflowException("Detected out-of-date database schema"), False),
        (MlflowException("no run", error_code=RESOURCE_DOES_NOT_EXIST), False),
        (ModuleNotFoundError("No module named 'psycopg2'"), False),
    ):
        with pytest.raises(SweepError, match=r"MLflow \(http://x\): ") as told, tracking_client.answering("http://x"):
            raise error
        assert told.value.exit_code == (1 if is_away else 2), error


@pytest.mark.parametrize("error", [StorageError("the folder is gone"), ConnectionFailed("no Ray there")])
def test_our_own_errors_stay_as_they_are_though_they_are_of_the_system_too(error):
    with pytest.raises(type(error)) as told, tracking_client.answering("http://x"):
        raise error
    assert told.value is error


def test_what_a_disk_refuses_is_told_and_is_no_mistake():
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/x")
    with pytest.raises(Failed, match=r"^this machine: .* No space left on device: '/tmp/x': mend"):  # noqa: SIM117
        with tracking_client.answering("http://x"):
            raise full
