"""The head node of a Ray cluster on this machine, with its dashboard and a token, as `ray start --head` makes it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests
from mlflow_servers import free_port


@dataclass(frozen=True)
class Head:
    """A head node, and a machine beside it that has nothing of it but the address and the token."""

    address: str
    token: str
    home: Path
    """The home folder on the head node."""
    laptop: Path
    """The home folder and current folder of the other machine."""
    logs: Path
    """Ray's log folder on the head node."""

    def environment(self, **changes: str) -> dict[str, str]:
        """Of a command on the other machine."""
        known = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        return {**known, "HOME": str(self.laptop), "RAY_AUTH_TOKEN": self.token, **changes}

    def qsweep(self, *words: str, timeout: float = 240, **changes: str) -> subprocess.CompletedProcess[str]:
        """Runs a command on the other machine, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "sweeps", *words],
            cwd=self.laptop, env=self.environment(**changes), capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip


@contextmanager
def head(seconds: float = 120) -> Iterator[Head]:
    """Starts a head node of four CPUs; waits for its dashboard until it answers."""
    with ExitStack() as stack:
        # A short path: Ray's sockets lie in it.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qs", ignore_cleanup_errors=True)))
        for name in ("ray", "home", "laptop"):
            (folder / name).mkdir()
        port, dashboard, client = (free_port() for _ in range(3))
        home, laptop, logs = folder / "home", folder / "laptop", folder / "t" / "session_latest" / "logs"
        started = Head(f"http://127.0.0.1:{dashboard}", secrets.token_hex(20), home, laptop, logs)
        environment = {
            **{key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES")},
            "HOME": str(started.home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": started.token,
            # Everything on 127.0.0.1, as for `ray_clusters`.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_TMPDIR": str(folder),
        }
        log = stack.enter_context((folder / "head.log").open("w"))
        process = subprocess.Popen(
            [
                Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
                f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
                "--dashboard-host=127.0.0.1", "--dashboard-agent-listen-port=0", "--num-cpus=4",
                "--object-store-memory=100000000", f"--temp-dir={folder}/t", "--disable-usage-stats",
            ],
            env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            _wait_for(started.address, process, folder / "head.log", seconds)
            yield started
        finally:
            # Its daemons are in its session: --block ends them when it is told to end.
            process.terminate()
            try:
                process.wait(60)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    """Any answer will do: without the token it is 401. The agent, which jobs need, is waited for by the dashboard."""
    for _ in range(int(seconds)):
        assert process.poll() is None, log.read_text()
        with suppress(requests.ConnectionError):
            requests.get(f"{address}/api/version", timeout=5)
            return
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
    raise AssertionError(log.read_text())
