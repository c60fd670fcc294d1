"""Real MLflow servers on this machine, which tests start, kill and start again."""

from __future__ import annotations

import base64
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

DEADLINE_SECONDS = 180.0
PORTS = range(20_000, 32_768)
"""Above those of Ray's workers, and below those that a system gives to whoever asks for any: a test may find one of
these free and use it later, also when it starts other programs in between."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no port of {PORTS} is free")


def answers(uri: str) -> bool:
    """Whether a server answers at the URI."""
    try:
        return requests.get(f"{uri}/health", timeout=2).status_code == 200
    except requests.RequestException:
        return False


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float = DEADLINE_SECONDS
) -> None:
    """Waits for what a process is to do; fails with its log when it ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        threading.Event().wait(0.1)


@dataclass
class Server:
    """A server that keeps its database and artifacts in `folder`, while it runs and while it does not."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its tracking URI."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, unless it runs; back when it answers."""
        if self.process is not None:
            return
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder}/server.db",
            "--artifacts-destination", f"{self.folder}/server-artifacts",
        ]  # fmt: skip
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        wait_until(lambda: answers(self.uri), self.process, self.folder / "server.log")

    def kill(self) -> None:
        """Kills it with all its workers, unless it does not run."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextmanager
def server(folder: Path, runs: bool = True) -> Iterator[Server]:
    """A server for as long as the block runs; with `runs=False` its port alone, until someone starts it."""
    found = Server(folder, free_port())
    if runs:
        found.start()
    try:
        yield found
    finally:
        found.kill()


class _Guard(BaseHTTPRequestHandler):
    """Passes on what comes with the right name and password, and answers 401 to the rest."""

    behind: str
    allowed: str

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kept = {key: value for key, value in self.headers.items() if key.lower() not in ("host", "authorization")}
        status, content = 401, b"who are you?"
        if self.headers.get("Authorization") == self.allowed:
            got = requests.request(self.command, self.behind + self.path, headers=kept, data=body, timeout=60)
            status, content = got.status_code, got.content
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _pass_on  # noqa: N815 - names that http.server calls

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


@contextmanager
def guarded(uri: str, user: str, password: str) -> Iterator[int]:
    """A port of 127.0.0.1 behind which a server is, for those who know a name and a password."""
    allowed = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), type("Guard", (_Guard,), {"behind": uri, "allowed": allowed}))
    listening.daemon_threads = True
    threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield listening.server_port
    finally:
        listening.shutdown()
        listening.server_close()
