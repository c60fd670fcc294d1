"""Runs MLflow's own server on a database, on this machine alone, while somebody looks at its UI."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from sweeps.config.passwords import hidden, whole
from sweeps.config.uris import artifact_root
from sweeps.errors import ConfigError, SweepError
from sweeps.tracking import timeouts
from trainables.inputs.legible import legible

LOOPBACK = "127.0.0.1"
FIRST_PORT = 5000
"""MLflow's default port."""
_MORE_PORTS = 100
_LAST_LINES = 10
# The kernel sends SIGTERM to the server when this process dies (prctl(2), PR_SET_PDEATHSIG), also after execve.
_UNTIL_WE_DIE = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    # This process may be gone already.
    "os.getppid() == int(sys.argv.pop(1)) or sys.exit(1); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Jobs of other parts of MLflow would run in processes of their own.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # The current folder may hold files with the names of modules.
    "PYTHONSAFEPATH": "1",
}
_NOT_OURS = (
    "MLFLOW_ARTIFACTS_ONLY", "MLFLOW_ENABLE_WORKSPACES", "MLFLOW_GUNICORN_OPTS", "MLFLOW_REGISTRY_STORE_URI",
    "MLFLOW_READ_REPLICA_BACKEND_STORE_URI", "MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_STATIC_PREFIX",
    "MLFLOW_UVICORN_OPTS",
)  # fmt: skip
"""Variables that configure other servers, and that this server must not inherit (`mlflow server --help`, 3.17.2)."""


class ServerFailed(SweepError):  # noqa: N818 - reads as what happened
    """MLflow's server did not start, or has ended by itself; `last_lines` are the last lines that it printed."""

    exit_code = 1

    def __init__(self, message: str, last_lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.last_lines = tuple(last_lines)


@contextmanager
def serving(uri: str, port: int) -> Iterator[UiServer]:
    """Runs a server on an existing database, and yields it once it answers. Raises `ServerFailed` if it does not.

    The server ends with the block, and if this process is killed.
    """
    server = UiServer(uri, port)
    try:
        server.wait_until_it_answers()
        yield server
    finally:
        server.end()


def free_port(port: int | None) -> int:
    """Returns `port`, or the first free one from `FIRST_PORT` on. Raises `ConfigError` if nothing can listen on it."""
    for each in range(FIRST_PORT, FIRST_PORT + _MORE_PORTS) if port is None else (port,):
        with socket.socket() as probe:
            # As the server does: an earlier server's closing connections do not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, each))
                return each
            except OSError as error:
                why = error.strerror
    raise ConfigError([f"--port: {each} cannot be listened on: {why}; give another, or none for the next free one"])


class UiServer:
    """MLflow's server in its own processes."""

    def __init__(self, uri: str, port: int) -> None:
        """Starts the server. Only its environment holds the URI: everybody can read the password in a command line."""
        self._uri = uri
        self.port = port
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        root = artifact_root(uri)
        self._process = subprocess.Popen(
            [
                sys.executable, "-c", _UNTIL_WE_DIE, str(os.getpid()), "-m", "mlflow", "server",
                "--host", LOOPBACK, "--port", str(port), "--workers", "1",
                *(["--artifacts-destination", root] if root is not None else []),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            text=True, errors="replace",
            env={name: value for name, value in os.environ.items() if name not in _NOT_OURS}
            | {**_ENVIRONMENT, "MLFLOW_BACKEND_STORE_URI": whole(uri)},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, name="mlflow-server-output", daemon=True)
        self._reader.start()

    @property
    def address(self) -> str:
        """Returns the server's address for a browser on this machine."""
        return f"http://{LOOPBACK}:{self.port}"

    def wait_until_it_answers(self) -> None:
        """Waits until the server listens. Raises `ServerFailed` if it ends, or after `timeouts.UI_START_SECONDS`."""
        deadline = time.monotonic() + timeouts.UI_START_SECONDS
        while not self._listens():
            if self._process.poll() is not None:
                raise self._failed(f"has ended (exit code {self._process.returncode})")
            if time.monotonic() > deadline:
                raise self._failed(f"does not answer after {timeouts.UI_START_SECONDS:.0f} s")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.1)

    def wait_until_it_ends(self) -> None:
        """Waits until the server ends, which it should not do, and raises `ServerFailed`."""
        code = self._process.wait()
        raise self._failed(f"has ended (exit code {code})")

    def end(self) -> None:
        """Ends the server with all its processes."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeouts.UI_END_SECONDS)

    def _listens(self) -> bool:
        with suppress(OSError):
            socket.create_connection((LOOPBACK, self.port), 1.0).close()
            return True
        return False

    def _failed(self, how: str) -> ServerFailed:
        if self._process.returncode is not None:
            self._reader.join(1.0)
        lines = [legible(hidden(line)) for line in tuple(self._last)]
        return ServerFailed(f"MLflow's server on {self._uri} {how}", lines)

    def _read(self) -> None:
        """Keeps the last lines of output, and reads all: a server whose output nobody reads stops."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip():
                self._last.append(line.rstrip())
