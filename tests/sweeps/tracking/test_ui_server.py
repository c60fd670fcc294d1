"""`qsweep ui`: MLflow's UI on a sweep's store, for as long as somebody looks at it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import requests
from mlflow import MlflowClient
from mlflow_servers import DEADLINE_SECONDS, free_port
from tracked_sweeps import SWEEP, deliver, sweep_events
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.errors import ConfigError
from sweeps.record.folder import SweepFolder
from sweeps.tracking import ui_server
from sweeps.tracking.sink import MlflowSink

LISTENS = (
    "import signal, socket, sys; at = socket.socket(); "
    "at.bind(('127.0.0.1', int(sys.argv[sys.argv.index('--port') + 1]))); at.listen(); signal.pause()"
)
"""In place of MLflow's server: listens on its port."""
FAILS = "import sys; print('one', flush=True); print('cannot open postgresql://me:secret@host/db'); sys.exit(3)"


def line_with(process: subprocess.Popen[str], pattern: str) -> str:
    """The next line of its stderr that matches; fails with what it has said when it ends without one."""
    said = []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if re.search(pattern, line):
            return line.strip()
    raise AssertionError(said)


@pytest.mark.slow
@pytest.mark.usefixtures("hears_signals")
def test_the_ui_shows_the_saved_view_until_ctrl_c(
    sink: MlflowSink, folder: SweepFolder, client: MlflowClient, uri: str, tmp_path: Path
) -> None:
    deliver(sink, sweep_events(folder))
    # The URI by the environment, as one with a password would be. A proxy is not asked for this machine's server.
    environment = {"MLFLOW_TRACKING_URI": uri, "http_proxy": "http://127.0.0.1:9"}
    process = subprocess.Popen(
        [sys.executable, "-m", "sweeps", "ui", SWEEP, "--port", str(port := free_port())],
        stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    killer = threading.Timer(DEADLINE_SECONDS, process.kill)
    killer.start()
    try:
        server, experiment = f"http://127.0.0.1:{port}", sink.experiment_id
        runs = f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning"
        assert line_with(process, "^http") == f"{runs}&viewStateShareKey={SWEEP}"
        line_with(process, "Ctrl-C")
        (views,) = (t for name, t in client.get_experiment(str(experiment)).tags.items() if name.endswith(SWEEP))
        assert "deflate" in views
        assert "<html" in requests.get(server, timeout=60).text
        processes = psutil.Process(process.pid).children(recursive=True)
        assert len(processes) >= 2
        assert not any(uri in word for each in processes for word in each.cmdline())

        # It is a server as any other: its page is told, and nothing is started.
        told = CliRunner().invoke(app, ["ui", "demo", "--tracking-uri", server])
        assert (told.exit_code, told.stderr) == (0, f"{runs}&viewStateShareKey={SWEEP}\n")

        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 0
        assert psutil.wait_procs(processes, timeout=DEADLINE_SECONDS)[1] == []
    finally:
        killer.cancel()
        process.kill()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlartifacts", "mlflow.db", "results"]


def test_a_port_that_is_asked_for_must_be_free_else_the_next_is_taken(
    monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setattr(ui_server, "_UNTIL_WE_DIE", LISTENS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["ui", "--tracking-uri", uri, "--port", str(port)])
        assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, "1 problem; nothing was started")
        assert f"--port: {port} cannot be listened on: Address already in use; give another" in done.stderr
        monkeypatch.setattr(ui_server, "FIRST_PORT", port)
        with ui_server.serving(uri, ui_server.free_port(None)) as server:
            assert port < server.port
            with pytest.raises(ConfigError, match=f"--port: {server.port} cannot be listened on"):
                ui_server.free_port(server.port)
    assert ui_server.free_port(server.port) == server.port


def test_a_server_that_does_not_start_is_told_by_its_last_lines(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setattr(ui_server, "_UNTIL_WE_DIE", FAILS)
    done = CliRunner().invoke(app, ["ui", "--tracking-uri", uri])
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        f"starting MLflow's server on {uri}",
        "  one",
        "  cannot open postgresql://me:***@host/db",
        f"error: MLflow's server on {uri} has ended (exit code 3)",
    ]


def test_what_is_not_there_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, told in (
        ([], "mlflow.db: no such database; name the store with --tracking-uri"),
        (["x"], "x: no folder of a sweep, nor can its id or name be looked up: sqlite:///"),
        (["--tracking-uri", "nonsense"], "tracking URI: 'nonsense' must be a database or a server"),
        (
            ["--tracking-uri", "postgresql://me@127.0.0.1:1/db"],
            "postgresql://me@127.0.0.1:1/db: no database answers there: Connection refused",
        ),
    ):
        done = CliRunner().invoke(app, ["ui", *words])
        assert (done.exit_code, told in done.stderr) == (2, True), done.stderr
    assert list(tmp_path.iterdir()) == []
