"""How long MLflow's client waits for an answer, and what it does when a server is too busy to give one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import Mock

import pytest
import requests
from mlflow import MlflowClient
from mlflow_servers import server
from sweep_events import begun

from sweeps.record.folder import EventLog
from sweeps.tracking import writer as writing
from sweeps.tracking.client import Runs
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import Registry
from sweeps.tracking.writer import Writer

DEADLINE = 50.0


class _Busy(BaseHTTPRequestHandler):
    """Answers 503 once, and then as a server that holds nothing."""

    asked: list[str]

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append(self.path.partition("?")[0])
        self.send_response(503 if len(self.asked) == 1 else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = _answer  # noqa: N815 - names that http.server calls

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def busy() -> Iterator[tuple[str, list[str]]]:
    """A server's URI, and what it was asked."""
    asked: list[str] = []
    listening = ThreadingHTTPServer(("127.0.0.1", 0), type("Busy", (_Busy,), {"asked": asked}))
    listening.daemon_threads = True
    threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}", asked
    finally:
        listening.shutdown()
        listening.server_close()


def test_a_promotion_goes_on_after_an_answer_that_says_later(busy: Any) -> None:
    uri, asked = busy
    assert Registry(uri).models() == []
    assert len(asked) == 2
    asked.clear()
    assert not Lookup(uri).holds("x-1")
    assert len(asked) == 3, "experiments twice, then runs"


def test_the_writer_alone_repeats_what_it_sends(busy: Any, folder: Any, monkeypatch: Any) -> None:
    uri, asked = busy
    monkeypatch.setattr(writing, "FIRST_PAUSE_SECONDS", 0.001)
    with closing(EventLog(folder.events)) as log:
        log.append(begun())
    said: list[str] = []
    asks = Mock(side_effect=lambda *_: MlflowClient(uri).search_experiments())
    writer = Writer(folder, Mock(apply=asks, experiment_id="7"), said.append)
    writer.start()
    assert writer.drain(DEADLINE) == 0
    assert (asks.call_count, len(asked)) == (2, 2)
    assert len(said) == 2, "trouble, and its end"
    # A promotion in the same process comes after it.
    asked.clear()
    assert Registry(uri).models() == []
    assert len(asked) == 2


def test_a_server_has_longer_for_a_file_than_for_all_else(tmp_path: Any, monkeypatch: Any) -> None:
    """It answers once the bucket behind it has the whole file."""
    asked: list[tuple[str, int]] = []
    request = requests.Session.request

    def noted(session: Any, method: str, url: str, **options: Any) -> Any:
        asked.append((f"{method} {url}", options["timeout"]))
        return request(session, method, url, **options)

    file = tmp_path / "best" / "adapter" / "adapter_config.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"{}")
    with server(tmp_path) as mlflow:
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
