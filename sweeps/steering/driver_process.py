"""Starts the driver of a sweep as a process of its own, and reads what drivers print."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sweeps.record.folder import SweepFolder, is_driven, is_held

Process = subprocess.Popen[bytes]
TURN_SECONDS = 0.5
"""Pause between two looks at a driver."""
_COLOURS = ("FORCE_COLOR", "CLICOLOR_FORCE")
"""Variables by which Jupyter asks programs for colours, and for a table that is redrawn."""


def start(folder: SweepFolder, words: list[str]) -> Process:
    """Starts `qsweep resume FOLDER WORDS` in its own session: an end or an interrupt of this process does not reach it.

    Args:
        folder: folder of the sweep, which need not have begun.
        words: options of the command.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _COLOURS}
    environment["PYTHONPATH"] = os.pathsep.join(_import_path())
    with folder.driver_log.open("ab") as log:
        with suppress(OSError):  # an earlier driver still prints, or the file system has no locks
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the new process holds the lock until it ends
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "sweeps", "resume", str(folder.path), *words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment,
        )  # fmt: skip


def _import_path() -> list[str]:
    """Returns where the driver finds the user's modules. The current folder is last: its cluster.py shadows nothing."""
    here, product = str(Path.cwd()), str(Path(__file__).parents[2])
    places = dict.fromkeys(str(Path(entry).absolute()) for entry in sys.path)
    return sorted([*places, *([] if here in places else [here])], key=lambda place: place == here and here != product)


def is_over(folder: SweepFolder, process: Process | None = None) -> bool:
    """Tells whether the driver has ended, whichever process started it.

    A process of `start` prints its closing lines after it has left the sweep: the lock of its log tells that it lives.
    """
    return (process is None or process.poll() is not None) and not (is_driven(folder) or is_held(folder.driver_log))


def wait_until_it_drives(folder: SweepFolder, process: Process) -> None:
    """Returns once the process has taken the sweep, or has ended."""
    pause = threading.Event()
    while process.poll() is None and not is_driven(folder):
        pause.wait(TURN_SECONDS)


def follow(folder: SweepFolder, process: Process | None, show: Callable[[], None]) -> None:
    """Calls `show` again and again until the driver has ended."""
    pause = threading.Event()
    while True:
        has_ended = is_over(folder, process)  # asked before `show`, so that the last line is shown too
        show()
        if has_ended:
            return
        pause.wait(TURN_SECONDS)


def lines(log: Path, begin: int = 0) -> Callable[[], None]:
    """Returns a function that prints the whole lines of the log that it has not printed, from byte `begin` on."""
    seen = begin

    def show() -> None:
        nonlocal seen
        if log.exists():
            with log.open("rb") as file:
                file.seek(seen)
                whole = file.read().rpartition(b"\n")
            seen += len(whole[0] + whole[1])
            print((whole[0] + whole[1]).decode(errors="replace"), end="", flush=True)

    return show
