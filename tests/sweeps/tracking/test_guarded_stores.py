"""A real tracking server: the name and password in its URI work and are never shown, and files may take longer."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import requests
from mlflow import MlflowClient
from mlflow_servers import free_port, guarded, server
from sweep_files import toy
from typer.testing import CliRunner, Result

from sweeps import saved_sweep
from sweeps.cli import app
from sweeps.errors import ConfigError, SweepError
from sweeps.record.folder import SweepFolder
from sweeps.saved_sweep import document
from sweeps.tracking import stores
from sweeps.tracking.client import Runs
from sweeps.tracking.lookup import Lookup, experiment_of
from sweeps.tracking.registry import Registry

SECRET = 'se/cr@t "x"'
ENCODED = "se%2Fcr%40t%20%22x%22"


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    """A real server that holds one sweep."""
    with server(tmp_path_factory.mktemp("server")) as found:
        MlflowClient(found.uri).create_run("0", tags={"sweep.id": "x-1"}, run_name="x")
        yield found


@pytest.fixture(scope="module")
def uri(mlflow):
    """The server's address behind a guard."""
    with guarded(mlflow.uri, "me", SECRET) as port:
        yield f"http://me:{ENCODED}@127.0.0.1:{port}"


def qsweep(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def test_a_sweep_is_looked_for_with_the_password(uri):
    assert experiment_of(stores.find("x-1", uri, {})) == ("0", "x-1")
    with pytest.raises(SweepError, match="y: no sweep of this id or name in http://me:\\*\\*\\*@127"):
        experiment_of(stores.find("y", uri, {}))
    with pytest.raises(SweepError, match="401"):
        experiment_of(stores.find("x-1", uri.replace(ENCODED, "other"), {}))


def test_commands_work_with_the_password_and_never_show_it(uri):
    done = qsweep("models", "--tracking-uri", uri, "--json")
    assert (done.exit_code, json.loads(done.stdout.splitlines()[-1])) == (0, {"models": []}), done.stderr
    for words in (["rollback", "--model", "m"], ["models", "--model", "m"], ["promote", "y", "--model", "m"]):
        done = qsweep(*words, "--tracking-uri", uri)
        assert done.exit_code == 2, done.stderr
        assert not any(part in done.stderr for part in ("cr@t", "cr%40t"))


@pytest.mark.parametrize(
    ("words", "address", "told"),
    [
        (["rollback", "--model", "m"], "http://me:{}@127.0.0.1:{}", "no MLflow server answers there: Connection re"),
        (
            ["promote", "y", "--model", "m"],
            "http://me:se/cr@t@127.0.0.1:{1}",
            "is not a web address: in a user name or password write / as %2F",
        ),
        (["models"], "http://me:se cr@t@[127.0.0.1:{1}", "is not a web address"),
    ],
)
def test_a_server_that_cannot_be_asked_is_told_in_a_line(words, address, told):
    done = qsweep(*words, "--tracking-uri", address.format(ENCODED, free_port()))
    assert done.exit_code == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert told in done.stderr
    assert not any(part in done.stderr for part in ("cr@t", "cr%40t"))


def test_a_traceback_has_no_password(tmp_path):
    code = (
        "from sweeps import cli\n"
        "def fails(): raise RuntimeError('cannot reach http://me:secret@host')\n"
        "cli.app = fails\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "RuntimeError: cannot reach http://me:***@host" in done.stderr
    assert "secret" not in done.stderr


def test_a_wrong_tracking_uri_of_resume_is_told_without_the_password(tmp_path):
    config, _ = toy()
    folder = SweepFolder(tmp_path)
    folder.config.write_text(json.dumps(document(config, "x-1")))
    with pytest.raises(ConfigError, match=r"^tracking.uri: 'http:\*\*\*@host' must be a database or a server"):
        saved_sweep.load(folder, "http:/me:secret@host")


def test_a_sweep_goes_on_with_the_password_from_the_command_line_or_the_environment(tmp_path, monkeypatch):
    uri = "http://me:se%2Fcret@host"
    config, _ = toy(tracking={"uri": uri})
    folder = SweepFolder(tmp_path)
    folder.config.write_text(json.dumps(document(config, "x-1")))
    assert "cret" not in folder.config.read_text()
    assert saved_sweep.load(folder, uri)[0].config.tracking.uri == uri
    with pytest.raises(ConfigError, match="give the whole URI in MLFLOW_TRACKING_URI"):
        saved_sweep.load(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert saved_sweep.load(folder)[0].config.tracking.uri == uri


def test_a_server_has_longer_for_a_file_than_for_all_else(mlflow, tmp_path, monkeypatch):
    """It answers once the bucket behind it has the whole file."""
    asked: list[tuple[str, int]] = []
    request = requests.Session.request

    def noted(session, method, url, **options):
        asked.append((f"{method} {url}", options["timeout"]))
        return request(session, method, url, **options)

    file = tmp_path / "best" / "adapter" / "adapter_config.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"{}")
    runs = Runs(mlflow.uri, "family", "x-1")
    run_id = runs.create("x-1", {"sweep.id": "x-1"}, 1.0)
    monkeypatch.setattr(requests.Session, "request", noted)
    runs.folder(run_id, tmp_path / "best")
    Registry(mlflow.uri).upload(run_id, file.parent, "promoted/m")
    assert Lookup(mlflow.uri).files(run_id, "promoted/m") == {file.name: b"{}"}
    of_file = [(name.split()[0], seconds) for name, seconds in asked if name.endswith(file.name)]
    assert of_file == [("PUT", 600), ("PUT", 600), ("GET", 600)]
    asked.clear()
    runs.log(run_id, tags={"sweep.state": "RUNNING"})
    assert [seconds for _, seconds in asked] == [30]
