"""The MLflow server is down, dies, answers nonsense, or hangs: the sweep does not mind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import chaos_runs as runs
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]
WORDS = [*runs.TOY, "budget.steps_per_trial=9"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(folder, port: int) -> subprocess.Popen:
    """A real MLflow server; back when it answers."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/server-artifacts",
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    runs.wait_for(lambda: _answers(port))
    return server


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def stop(server: subprocess.Popen) -> None:
    os.killpg(server.pid, 9)
    server.wait()


def test_server_killed_and_restarted_in_the_middle(tmp_path):
    port = free_port()
    server = serve(tmp_path, port)
    run = runs.start(tmp_path, "launch", *WORDS, "training.step_seconds=0.5", f"tracking.uri=http://127.0.0.1:{port}")
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: (sweep / "events.jsonl").exists() and runs.reports(sweep) >= 1, run)
    stop(server)
    seen = runs.reports(sweep)
    runs.wait_for(lambda: runs.reports(sweep) >= seen + 2, run)
    server = serve(tmp_path, port)
    assert run.wait() == 0, run.err.read_text()
    runs.assert_whole(sweep, f"http://127.0.0.1:{port}", 6)
    stop(server)
    told = [line for line in run.err.read_text().splitlines() if "tracking:" in line]
    assert len(told) == 2, told


def test_server_down_from_the_start_is_caught_up_by_resume(tmp_path):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    run = runs.start(tmp_path, "launch", *WORDS, f"tracking.uri={uri}", QSWEEP_DRAIN_SECONDS="5")
    sweep = tmp_path / "results" / "toy"
    assert run.wait() == 1, run.err.read_text()
    assert "qsweep resume" in run.err.read_text()
    assert run.answer()["parent_run"] is None
    assert run.answer()["best"] is not None
    server = serve(tmp_path, port)
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    runs.assert_whole(sweep, uri, 6)
    stop(server)


class _Refusing(BaseHTTPRequestHandler):
    """Answers 500 to everything, or never answers."""

    hang = False

    def _answer(self) -> None:
        if self.hang:
            threading.Event().wait(60)
            return
        self.send_response(500)
        self.end_headers()

    do_GET = do_POST = do_PATCH = do_PUT = _answer  # noqa: N815 - names that http.server calls

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


@contextmanager
def refusing(port: int, hang: bool):
    handler = type("Handler", (_Refusing,), {"hang": hang})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("hang", [False, True], ids=["answers 500", "hangs"])
def test_server_that_does_not_take_anything_is_only_a_delay(tmp_path, hang):
    port = free_port()
    with refusing(port, hang):
        run = runs.start(tmp_path, "launch", *WORDS, f"tracking.uri=http://127.0.0.1:{port}")
        sweep = tmp_path / "results" / "toy"
        runs.wait_for(lambda: (sweep / "events.jsonl").exists() and runs.record(sweep).ended is not None, run)
        assert runs.record(sweep).ended.reason == "finished"
    server = serve(tmp_path, port)
    assert run.wait() == 0, run.err.read_text()
    runs.assert_whole(sweep, f"http://127.0.0.1:{port}", 6)
    stop(server)
