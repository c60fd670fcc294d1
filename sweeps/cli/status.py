"""`qsweep status SWEEP`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sweeps.cli.shared import Json, LocalSweep, Storage, mistakes
from sweeps.cli.submitted import Address, ask_there

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sweeps.report.status import Status

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
    if address is not None:
        _of_cluster(sweep, address, watch, as_json)
    import threading
    import time

    from rich.live import Live

    from sweeps.report import status as reading
    from sweeps.report.summary import console
    from sweeps.steering import local_sweeps

    with mistakes():
        folder = local_sweeps.find(sweep, storage)
        now = reading.read(folder, time.time())
        out, pause = console(), threading.Event()
        if watch and out.is_terminal:
            with Live(_shown(now), console=out, auto_refresh=False) as live:
                while now.state == "RUNNING":
                    pause.wait(TURN_SECONDS)
                    now = reading.read(folder, time.time())
                    live.update(_shown(now), refresh=True)
        else:
            out.print(_shown(now))
            while watch and now.state == "RUNNING":
                pause.wait(TURN_SECONDS)
                before, now = now, reading.read(folder, time.time())
                if (now.record.latest, now.record.answered, now.state) != (
                    before.record.latest,
                    before.record.answered,
                    before.state,
                ):
                    out.print(_shown(now))
    if as_json:
        print(json.dumps(now.as_json()))


def _of_cluster(sweep: str, address: str, watch: bool, as_json: bool) -> NoReturn:
    from sweeps.errors import ConfigError

    with mistakes(""):
        if watch:
            raise ConfigError(["--watch: not with --address: qsweep logs --follow shows the sweep's own lines"])
    ask_there(sweep, address, "status", (), as_json)


def _shown(status: Status) -> RenderableType:
    """The status, with the table of its trials."""
    from rich.console import Group
    from rich.text import Text

    from sweeps.report import tables

    rows = tables.order(status.record)
    return Group(*map(Text, status.lines()), *([tables.terminal(status.record, rows)] if rows else []))
