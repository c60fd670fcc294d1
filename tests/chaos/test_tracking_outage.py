"""The MLflow server dies, or hangs: the sweep does not mind."""

from __future__ import annotations

import signal
import socket

import chaos_runs as runs
import pytest
from mlflow_servers import server

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]
WORDS = [*runs.TOY, "budget.steps_per_trial=9"]


def test_server_killed_and_restarted_in_the_middle(tmp_path):
    with server(tmp_path) as mlflow:
        run, sweep = runs.launched(tmp_path, *WORDS, "training.step_seconds=0.5", f"tracking.uri={mlflow.uri}")
        mlflow.kill()
        seen = runs.reports(sweep)
        runs.wait_for(lambda: runs.reports(sweep) >= seen + 2, run)
        mlflow.start()
        runs.hurry(tmp_path)
        assert run.wait() == 0, run.err.read_text()
        runs.assert_whole(sweep, mlflow.uri, 6)
    lines = run.err.read_text().splitlines()
    told = [line for line in lines if "tracking:" in line and "tracking: waiting for MLflow" not in line]
    # A server that is killed may fail in more than one way; each is said once.
    assert 2 <= len(told) <= 4, told
    assert told[-1].endswith("tracking: back, everything is delivered")


def test_a_sweep_leaves_a_server_that_takes_nothing_and_its_events_go_elsewhere(tmp_path):
    sweep = tmp_path / "results" / "toy"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        words = ["launch", *WORDS, f"tracking.uri=http://127.0.0.1:{port}", "--offline"]
        runs.hurry(tmp_path)
        run = runs.start(tmp_path, *words, MLFLOW_HTTP_REQUEST_TIMEOUT="3")
        runs.wait_for(lambda: "waiting for MLflow, 120 s at most for each event" in run.err.read_text(), run)
        assert runs.record(sweep).ended.reason == "finished"
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 1
    told = run.err.read_text()
    assert "leaving without waiting for the tracking server" in told
    assert "send the rest, there or (--tracking-uri URI) elsewhere, with:" in told
    assert run.answer()["best"] is not None
    assert run.answer()["parent_run"] is None
    again = runs.start(tmp_path, "resume", "results/toy", "--tracking-uri", "sqlite:///mlflow.db")
    assert again.wait() == 0, again.err.read_text()
    assert "finished already" in again.err.read_text()
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(sweep)
    assert again.answer()["parent_run"] is not None
