"""Starts the driver of a sweep as a process of its own, and shows its progress until it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.record.folder import SweepFolder

Process = subprocess.Popen[bytes]
TURN_SECONDS = 0.5
"""Pause between two looks at a followed sweep."""
MOST_ROWS = 40
"""Most rows of the live table, the best trials first."""
_COLOURS = ("FORCE_COLOR", "CLICOLOR_FORCE")
"""Variables by which Jupyter asks programs for colours, and for a table that is redrawn."""


def log_of(folder: SweepFolder) -> Path:
    """Returns the file to which a driver that was started from Python prints."""
    return folder.path / "driver.log"


def log_size(folder: SweepFolder) -> int:
    """Returns the bytes of the driver's log."""
    log = log_of(folder)
    return log.stat().st_size if log.exists() else 0


def start(folder: SweepFolder, words: list[str]) -> Process:
    """Starts `qsweep resume FOLDER WORDS` in its own session: an end or an interrupt of this process does not reach it.

    Args:
        folder: folder of the sweep, which need not have begun.
        words: options of the command.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _COLOURS}
    environment["PYTHONPATH"] = os.pathsep.join(_import_path())
    with log_of(folder).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "sweeps", "resume", str(folder.path), *words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment,
        )  # fmt: skip


def _import_path() -> list[str]:
    """Returns where the driver finds the user's modules. The current folder is last: its cluster.py shadows nothing."""
    here, product = str(Path.cwd()), str(Path(__file__).parents[1])
    places = dict.fromkeys(str(Path(entry).absolute()) for entry in sys.path)
    return sorted([*places, *([] if here in places else [here])], key=lambda place: place == here and here != product)


def is_over(folder: SweepFolder, process: Process | None) -> bool:
    """Tells whether the driver has ended, whichever process started it."""
    from sweeps.record.folder import is_driven

    return (process is None or process.poll() is not None) and not is_driven(folder)


def wait_until_it_drives(folder: SweepFolder, process: Process) -> None:
    """Returns once the process has taken the sweep, or has ended."""
    from sweeps.record.folder import is_driven

    pause = threading.Event()
    while process.poll() is None and not is_driven(folder):
        pause.wait(TURN_SECONDS)


def follow(folder: SweepFolder, process: Process | None, begin: int) -> None:
    """Shows the driver's progress until it ends: in a notebook a live table, elsewhere its log from byte `begin` on."""
    show, pause = _live_table(folder) if has_displays() else _lines(log_of(folder), begin), threading.Event()
    while True:
        has_ended = is_over(folder, process)  # asked before `show`, so that the last line is shown too
        show()
        if has_ended:
            return
        pause.wait(TURN_SECONDS)


def is_interactive() -> bool:
    """Tells whether a person types here: then an interrupted call still gives its result."""
    return hasattr(sys, "ps1") or shell() is not None


def shell() -> Any:
    """Returns the IPython shell of this process, of a notebook or a terminal; None outside of IPython."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def has_displays() -> bool:
    """Tells whether this is a notebook."""
    return hasattr(shell(), "kernel")


def _lines(log: Path, begin: int) -> Callable[[], None]:
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


def _live_table(folder: SweepFolder) -> Callable[[], None]:
    import time
    from html import escape

    from IPython.display import display

    from qsweep._trials import table_of
    from sweeps.report import status as reading

    events = reading.EventsRead()
    handle = display({"text/plain": ""}, raw=True, display_id=True)
    shown: object = None

    def show() -> None:
        nonlocal shown
        now = reading.read_status(folder, time.time(), events)
        if shown != (news := (now.record.latest, now.state)):
            shown, text = news, "\n".join(now.lines())
            table = table_of(now.record, folder.path).drop(columns="adapter", errors="ignore").head(MOST_ROWS)
            html, plain = ("", "") if table.empty else (table.to_html(), f"\n{table}")  # no trial has begun
            handle.update({"text/plain": text + plain, "text/html": f"<pre>{escape(text)}</pre>{html}"}, raw=True)

    return show
