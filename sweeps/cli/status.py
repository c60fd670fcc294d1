"""`qsweep status SWEEP`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeps.cli.shared import Json, LocalSweep, Storage, mistakes
from sweeps.cli.submitted import Address

if TYPE_CHECKING:
    from rich.console import RenderableType

TURN_SECONDS = 2.0
"""Pause between two looks at a sweep that is watched."""


def status(
    sweep: LocalSweep,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again until the sweep has ended.")] = False,
    storage: Storage = Path("results"),
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Show where a sweep stands: trials, the best one, rates, time left, hosts, what MLflow has not taken."""
    with mistakes(""):
        look = _looks_here(sweep, storage) if address is None else _looks_there(sweep, address)
        last = _watch(look) if watch else _show(look())
    if as_json:
        print(json.dumps(last.closing))


@dataclass(frozen=True)
class _View:
    """A status, as it is shown."""

    shown: RenderableType
    closing: dict[str, Any]
    """The JSON line."""
    news: object
    """Two views are worth showing when this is not equal: the time that has passed is not news."""

    @property
    def is_running(self) -> bool:
        """There may be other views of this sweep."""
        return bool(self.closing.get("state") == "RUNNING")


def _looks_here(sweep: str, storage: Path) -> Callable[[], _View]:
    """Looks at a sweep of this machine."""
    import time

    from sweeps.report import status as reading
    from sweeps.steering import local_sweeps

    folder, events = local_sweeps.find(sweep, storage), reading.EventsRead()

    def look() -> _View:
        now = reading.read(folder, time.time(), events)
        return _View(reading.shown(now), now.as_json(), (now.record.latest, now.record.answered, now.state))

    return look


def _looks_there(sweep: str, address: str) -> Callable[[], _View]:
    """Looks at a submitted sweep."""
    from rich.text import Text

    from cluster.errors import ConnectionFailed, ServiceFailed
    from cluster.submission.jobs import connect
    from sweeps.cli.submitted import answer_there, end_with

    jobs, was_there = connect(address), False

    def look() -> _View:
        nonlocal was_there
        try:
            answer = answer_there(jobs, sweep, ("status",))
        except ConnectionFailed as error:
            if not was_there:
                raise
            raise ServiceFailed(f"{error}; the sweep may go on") from None
        was_there = True
        if answer.exit_code:
            end_with(answer, as_json=False)
        news = {key: value for key, value in answer.closing.items() if not key.startswith("seconds")}
        return _View(Text("\n".join(answer.lines)), answer.closing, news)

    return look


def _show(view: _View) -> _View:
    from rich.text import Text

    from sweeps.report.summary import console

    # The head node has broken its lines for this terminal; a command that comes after them stays in one line.
    console().print(view.shown, soft_wrap=isinstance(view.shown, Text))
    return view


def _watch(look: Callable[[], _View]) -> _View:
    """The last view of a sweep: in a terminal one view replaces the other, elsewhere each that has news is printed.

    Rests for twice as long as a look took: one that starts a job on a cluster takes its head node tens of seconds.
    """
    import threading
    import time

    from rich.live import Live

    from sweeps.report.summary import console

    out, pause, view, took = console(), threading.Event(), look(), 0.0

    def again() -> _View:
        nonlocal took
        pause.wait(max(TURN_SECONDS, 2 * took))
        began = time.monotonic()
        seen = look()
        took = time.monotonic() - began
        return seen

    if out.is_terminal:
        with Live(view.shown, console=out, auto_refresh=False) as live:
            while view.is_running:
                view = again()
                live.update(view.shown, refresh=True)
        return view
    _show(view)
    while view.is_running:
        before, view = view, again()
        if view.news != before.news:
            _show(view)
    return view
