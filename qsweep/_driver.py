"""Shows the progress of a sweep, whose driver is a process of its own, until the driver ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.record.folder import SweepFolder
    from sweeps.steering.driver_process import Process

MOST_ROWS = 40
"""Most rows of the live table, the best trials first."""


def log_size(folder: SweepFolder) -> int:
    """Returns the bytes of the driver's log."""
    log = folder.driver_log
    return log.stat().st_size if log.exists() else 0


def follow(folder: SweepFolder, process: Process | None, begin: int) -> None:
    """Shows the driver's progress until it ends: in a notebook a live table, elsewhere its log from byte `begin` on."""
    from sweeps.steering import driver_process

    show = _live_table(folder) if has_displays() else driver_process.lines(folder.driver_log, begin)
    driver_process.follow(folder, process, show)


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
