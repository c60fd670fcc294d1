"""Which store a command means: found out without MLflow, and without making a database."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest
import python_imports
from mlflow_servers import free_port
from sweep_files import toy

from sweeps import cli, saved_sweep
from sweeps.config.passwords import STORE
from sweeps.errors import ConfigError, SweepError
from sweeps.record.folder import FORMAT, SweepFolder
from sweeps.tracking import stores, timeouts
from sweeps.tracking.lookup import experiment_of


def sweep_folder(path: Path, uri: str) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(
        json.dumps({"format": FORMAT, "sweep_id": "x-1", "config": {"tracking": {"uri": uri}}})
    )
    return path


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["promote", "results/x", "--model", "m"],
            "/nowhere/mlflow.db: no such database; a sweep that has just begun creates its database within a minute; ",
        ),
        (["launch", "toy", "--promote"], "promotion.model: --promote needs it"),
    ],
)
def test_what_is_not_there_is_told_before_mlflow_is_imported(tmp_path, words, line):
    sweep_folder(tmp_path / "results" / "x", "sqlite:///nowhere/mlflow.db")
    before = sorted(tmp_path.rglob("*"))
    assert line in python_imports.refusal(tmp_path, *words)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_without_the_sweep_says_so(empty_database, tmp_path):
    uri = f"sqlite:///{empty_database}"
    for sweep in ("x-1", "x", "it's"):
        with pytest.raises(SweepError, match=r"no sweep of this id or name in sqlite.*; name its folder, or name the"):
            experiment_of(stores.find(sweep, uri, {}))
    with pytest.raises(SweepError, match=f"send it with qsweep resume {tmp_path}/x --resend"):
        experiment_of(stores.find(str(sweep_folder(tmp_path / "x", uri)), None, {}))


def test_what_is_no_database_is_told_at_once_and_a_locked_one_is_left_to_mlflow(empty_database, tmp_path, monkeypatch):
    """MLflow itself asks for it for 100 seconds."""
    file = Path(shutil.copy(empty_database, tmp_path / "mlflow.db"))
    uri, unreadable = f"sqlite:///{file}", r"mlflow\.db: cannot be read as a database \(.+\); name the store with --tr"
    monkeypatch.setattr(timeouts, "CONNECT_SECONDS", 0.0)
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("begin exclusive")
        assert stores.find("x-1", uri, {}).sweep == "x-1"
    journal = tmp_path / "mlflow.db-journal"
    journal.mkdir()  # root may read every file, but no folder as one
    with pytest.raises(SweepError, match=unreadable):
        stores.find("x-1", uri, {})
    journal.rmdir()
    file.write_text("no database at all, and long enough to be looked at as one" * 9)
    with pytest.raises(SweepError, match=unreadable):
        stores.find("x-1", uri, {})


@pytest.fixture
def listening():
    """Host and port of what may be a database."""
    with socket.create_server(("127.0.0.1", 0)) as there:
        yield f"127.0.0.1:{there.getsockname()[1]}"


def test_the_folders_store_goes_before_the_environments(tmp_path, listening):
    folder = str(sweep_folder(tmp_path / "x", f"postgresql://me:***@{listening}/db"))
    given = {"MLFLOW_TRACKING_URI": f"postgresql://me:secret@{listening}/db"}
    found = stores.find(folder, None, given)
    assert found.uri == f"postgresql://me:***@{listening}/db"
    other = {"MLFLOW_TRACKING_URI": f"postgresql://{listening}/other"}
    for environment in ({}, other):
        with pytest.raises(SweepError, match="give the whole address, with its password, in MLFLOW"):
            stores.find(folder, None, environment)
    assert stores.find("x-1", None, other).uri == f"postgresql://{listening}/other"
    third = f"postgresql://{listening}/third"
    assert stores.find("x-1", third, other).uri == third


def test_a_database_that_does_not_listen_is_told_at_once_where_it_can_be_known(listening, monkeypatch):
    closed = f"127.0.0.1:{free_port()}"
    for port in ("", ":5"):
        monkeypatch.setenv("PGPORT", closed.partition(":")[2])
        place = f"127.0.0.1{port}"
        with pytest.raises(SweepError, match=rf"^postgresql://me:\*\*\*@{place}/db: no database answers there: Conn"):
            stores.check_store(
                f"postgresql://me:***@{place}/db", environment={STORE: f"postgresql://me:se/cret@{place}/db"}
            )
    monkeypatch.setenv("PGPORT", listening.partition(":")[2])
    stores.check_store("postgresql+psycopg://me@127.0.0.1/db")
    # One of a socket or of several servers is left to MLflow.
    for words in ("/db", "/db?host=/run", "a:1,b:1/db", "a,b/db"):
        stores.check_store(f"postgresql://{words}")


def test_a_models_folder_of_the_name_of_a_sweep_is_no_sweep(empty_database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tickets").mkdir()
    (tmp_path / "tickets" / "config.json").write_text('{"model_type": "llama"}')
    assert stores.find("tickets", f"sqlite:///{empty_database}", {}).folder is None
    with pytest.raises(SweepError, match="not the configuration of a sweep"):
        stores.find("./tickets", None, {})
    with pytest.raises(SweepError, match=f"{tmp_path}: no sweep here: a sweep's folder has a config.json"):
        stores.find("./", None, {})


def test_a_saved_sweep_goes_on_with_the_password_from_the_environment(tmp_path, monkeypatch):
    shown = "http://me:***@host"
    config, _ = toy(tracking={"uri": shown})
    folder = SweepFolder(tmp_path)
    folder.config.write_text(json.dumps(saved_sweep.document(config, "x-1")))
    with pytest.raises(ConfigError, match="give the whole address, with its password, in MLFLOW_TRACKING_URI"):
        saved_sweep.load(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:se%2Fcret@host")
    assert saved_sweep.load(folder)[0].config.tracking.uri == shown


def test_a_traceback_has_no_password(monkeypatch, capsys):
    monkeypatch.setattr(cli, "app", Mock(side_effect=RuntimeError("cannot reach http://me:secret@host")))
    monkeypatch.setattr(cli.streams, "quiet_standard_streams", Mock())
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as end:
        cli.main()
    err = capsys.readouterr().err
    assert end.value.code == 1
    assert "Traceback" in err and "RuntimeError: cannot reach http://me:***@host" in err
    assert "secret" not in err
