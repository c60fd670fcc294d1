"""`qsweep status SWEEP`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeps.cli.shared import Json, LocalSweep, Storage, find_sweep, mistakes
from sweeps.cli.submitted import Address

if TYPE_CHECKING:
    from rich.console import RenderableType

TURN_SECONDS = 2.0
"""Least pause, in seconds, between two looks at a watched sweep."""


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
        last = _watch(look, as_json) if watch else _show(look(), as_json)
    if as_json:
        print(json.dumps(last.closing))


@dataclass(frozen=True)
class _View:
    shown: RenderableType
    closing: dict[str, Any]
    """The JSON line."""
    news: object
    """A view is worth printing if its news differ from those of the view before. Time that has passed is no news."""

    @property
    def is_running(self) -> bool:
        """Tells whether the sweep runs, so that later views may differ."""
        return bool(self.closing.get("state") == "RUNNING")


def _looks_here(sweep: str, storage: Path) -> Callable[[], _View]:
    import time

    from sweeps.report import status as reading

    folder, events = find_sweep(sweep, storage), reading.EventsRead()

    def look() -> _View:
        now = reading.read_status(folder, time.time(), events)
        return _View(reading.shown(now), now.as_json(), (now.record.latest, now.record.answered, now.state))

    return look


def _looks_there(sweep: str, address: str) -> Callable[[], _View]:
    from rich.text import Text

    from cluster.submission.jobs import connect
    from sweeps.cli.submitted import answer_there, end_with

    jobs = connect(address)

    def look() -> _View:
        answer = answer_there(jobs, "status", sweep)
        if answer.exit_code:
            end_with(answer, as_json=False)
        news = {key: value for key, value in answer.closing.items() if not key.startswith("seconds")}
        return _View(Text("\n".join(answer.lines)), answer.closing, news)

    return look


def _show(view: _View, as_json: bool) -> _View:
    from rich.text import Text

    from sweeps.report.summary import console

    # The head node has wrapped its lines for this terminal. A command below these lines stays on one line.
    console(as_json).print(view.shown, soft_wrap=isinstance(view.shown, Text))
    return view


def _watch(look: Callable[[], _View], as_json: bool) -> _View:
    """Shows views of a sweep until it has ended, and returns the last one.

    In a terminal a view replaces the one before; elsewhere each view with news is printed. The pause is twice as long
    as a look took, because a look that starts a job on a cluster costs the head node tens of seconds.
    """
    import threading
    import time

    from rich.live import Live

    from sweeps.report.summary import console

    out, pause, view, took = console(as_json), threading.Event(), look(), 0.0

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
    _show(view, as_json)
    while view.is_running:
        before, view = view, again()
        if view.news != before.news:
            _show(view, as_json)
    return view
