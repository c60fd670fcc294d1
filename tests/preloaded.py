"""`qsweep` in processes that begin as forks of one that has imported all of it: each command saves seconds of imports.

How `python -m sweeps` itself starts is shown by tests/sweeps/cli/test_start_up.py and tests/sweeps/test_quickstart.py.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["sweeps.cli", "sweeps.launch", "sweeps.tune.driver", "mlflow.store.tracking.sqlalchemy_store"]
)


class Command:
    """`qsweep WORDS` in a session of its own, as a `subprocess.Popen` of it would be."""

    def __init__(self, words: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path) -> None:
        """Starts it in `folder`; what it prints goes to the files `out` and `err`."""
        for output in (out, err):
            output.write_bytes(b"")
        arguments = (words, str(folder), environment, (str(out), str(err)))
        self._process = SERVER.Process(target=_become, args=arguments, daemon=True)  # it ends with this process
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """Its exit code, once it has ended."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("qsweep", timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Sends a signal to it alone, where it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)


def _become(words: list[str], folder: str, environment: dict[str, str], outputs: tuple[str, str]) -> None:
    """Runs the command in this process, which is a fork and has nothing else to do."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    sys.argv = ["qsweep", *words]
    # As Python fills it for `python -m`.
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        runpy.run_module("sweeps", run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a fork ends without them
