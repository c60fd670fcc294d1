"""Commands on a real MLflow server, whose URI holds a name and a password: these work and are never shown."""

from __future__ import annotations

import json
from typing import Any

import promotions
import pytest
import requests
from mlflow import MlflowClient
from mlflow_servers import free_port, guarded, server
from promotions import MODEL, Trial, run
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.config.passwords import STORE
from sweeps.errors import Failed, SweepError
from sweeps.promotion import promote as promoting
from sweeps.tracking import stores
from sweeps.tracking.client import Runs
from sweeps.tracking.lookup import Lookup, experiment_of
from sweeps.tracking.registry import Registry

SECRET = 'se/cr@t "x"'
ENCODED = "se%2Fcr%40t%20%22x%22"


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory, trained):
    """The URI of a server that holds two sweeps: `first` with a weak adapter, `second` with a strong one."""
    root = tmp_path_factory.mktemp("server")
    with server(root) as found:
        config = promotions.config(trained.root, found.uri)
        for begun, (name, adapter) in enumerate((("first", "weak"), ("second", "strong")), 1):
            of, trials = config.model_copy(update={"name": name}), [Trial(trained.adapters[adapter])]
            promotions.deliver(of, f"{name}-1", root / "results" / name, trials, trained.fingerprint, float(begun))
        yield found.uri


@pytest.fixture(scope="module")
def uri(mlflow):
    """The server's address behind a guard."""
    with guarded(mlflow, "me", SECRET) as port:
        yield f"http://me:{ENCODED}@127.0.0.1:{port}"


def invoke(*words: str, tracking_uri: str) -> tuple[int, str, Any]:
    """The exit code, what people read, and the JSON of a command that has the store from the environment."""
    done = CliRunner().invoke(app, [*words, "--json"], env={STORE: tracking_uri})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert not any(part in done.output for part in ("cr@t", "cr%40t")), done.output
    return done.exit_code, done.stderr, json.loads(done.stdout) if done.stdout else None


def test_a_sweep_is_looked_for_with_the_password(uri, monkeypatch):
    monkeypatch.setenv(STORE, uri)
    assert experiment_of(stores.find("first-1"))[1] == "first-1"
    with pytest.raises(
        SweepError, match=r"y: no sweep of this id or name in http://me:\*\*\*@127.*; the newest there: second, first;"
    ):
        experiment_of(stores.find("y"))
    monkeypatch.setenv(STORE, uri.replace(ENCODED, "other"))
    with pytest.raises(SweepError, match="401"):
        experiment_of(stores.find("first-1"))


def test_the_commands_print_what_happened(uri, here, monkeypatch):
    """First, not better by so much, better, again, worse, back."""
    inner = promoting.promote
    monkeypatch.setattr(
        promoting, "promote", lambda asked, say, show, tell: inner(asked, say, show, promotions.in_process, tell=tell)
    )

    def told(*words: str) -> tuple[int, str, Any]:
        return invoke(*words, "--model", MODEL, tracking_uri=uri)

    # Another test of this server registers a model.
    assert MODEL not in [each["model"] for each in invoke("models", tracking_uri=uri)[2]["models"]]
    for words in (["rollback"], ["models"], ["promote", "y"]):
        assert told(*words)[0] == 2
    monkeypatch.setattr("sweeps.timeouts.PASSING_SECONDS", 0.0)
    promotions._host.cache_clear()
    monkeypatch.setenv("QSWEEP_CACHE", str(here / "cache"))  # nothing was evaluated yet
    code, err, _ = told("promote", "first-1")
    assert code == 0
    assert {"  loading the base", "  the base: computing losses, 40 of 40 rows done"} <= set(err.splitlines())
    code, err, found = told("promote", "second", "--min-gain", "9")
    assert (code, found["promoted"]) == (1, False)
    assert "not promoted: t00 gains" in err and "less than min_gain 9" in err
    (row,) = [line for line in err.splitlines() if line.startswith("t00 ")]
    assert row.split()[2] == "base" and row.rstrip().endswith("not better")
    code, err, found = told("promote", "second")
    assert (code, found["version"], found["previous"]) == (0, "2", "1")
    assert "champion: version 2 (before: version 1)" in err
    assert told("promote", "second")[2]["already_champion"]
    assert told("promote", "first")[0] == 1
    code, err, found = told("models")
    assert (code, found["models"][0]["aliases"]) == (0, {"challenger": "2", "champion": "2", "previous": "1"})
    assert [line.split()[:3] for line in err.splitlines() if line.startswith(MODEL)] == [
        [MODEL, "challenger", "2"], [MODEL, "champion", "2"], [MODEL, "previous", "1"],
    ]  # fmt: skip
    code, err, found = told("rollback")
    assert (code, found["version"], found["previous"]) == (0, "1", "2")
    assert f"{MODEL}: champion is version 1 (before: version 2)" in err
    code, err, _ = told("rollback")
    assert code == 2
    assert f"error: {MODEL}: no version was the champion before: there is nothing to go back to" in err


@pytest.mark.parametrize(
    ("words", "address", "told"),
    [
        (["rollback"], "http://me:{}@127.0.0.1:{}", "no MLflow server answers there: Connection re"),
        (
            ["promote", "y"],
            "http://me:se/cr@t@127.0.0.1:{1}",
            "is not a web address: in a user name or password write /",
        ),
        (["models"], "http://me:se cr@t@[127.0.0.1:{1}", "is not a web address"),
    ],
)
def test_a_server_that_cannot_be_asked_is_told_in_a_line(words, address, told):
    code, err, _ = invoke(*words, "--model", "m", tracking_uri=address.format(ENCODED, free_port()))
    assert (code, len(err.splitlines()), told in err) == (2, 1, True), err


def test_a_server_that_fails_on_the_way_is_told(mlflow, here, monkeypatch):
    """The registry's last request fails as it does when the server has gone: the alias is where it was."""

    def gone(*_: object) -> None:
        MlflowClient(tracking_uri="http://127.0.0.1:1").search_experiments()

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(Registry, "point", gone)
    with pytest.raises(Failed, match=r"MLflow \(http://127.0.0.1:\d+\): .*onnection"):
        run("second-1", tracking_uri=mlflow, model="failing")
    assert MlflowClient(tracking_uri=mlflow).get_registered_model("failing").aliases == {}


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
    runs = Runs(mlflow, "family", "x-1")
    run_id = runs.create("x-1", {"sweep.id": "x-1"}, 1.0)
    monkeypatch.setattr(requests.Session, "request", noted)
    runs.folder(run_id, tmp_path / "best")
    Registry(mlflow).upload(run_id, file.parent, "promoted/m")
    assert Lookup(mlflow).files(run_id, "promoted/m") == {file.name: b"{}"}
    of_file = [(name.split()[0], seconds) for name, seconds in asked if name.endswith(file.name)]
    assert of_file == [("PUT", 600), ("PUT", 600), ("GET", 600)]
    asked.clear()
    runs.log(run_id, tags={"sweep.state": "RUNNING"})
    assert [seconds for _, seconds in asked] == [30]
