"""`qsweep report SWEEP [SWEEP]...`."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.shared import Json, LocalSweep, Price, Storage, find_sweep, mistakes, say
from sweeps.errors import ConfigError

if TYPE_CHECKING:
    from sweeps.record.folder import SweepFolder

TURN_SECONDS = 5.0
"""Shortest time between two pages of a sweep that runs."""


def report(  # noqa: PLR0913 - its options
    sweep: LocalSweep,
    others: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SWEEP]...", help="Others to show beside it; SWEEP:t03 for a trial, not the best one."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Where to write the page; report.html in the sweep's folder, A-B.html beside it.",
        ),
    ] = None,
    price: Price = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Write the page again as the sweep goes on; a browser reloads it.")
    ] = False,
    storage: Storage = Path("results"),
    as_json: Json = False,
) -> None:
    """Write a sweep, also one that runs, as one HTML page with tables and charts, to read offline, keep and send."""
    import time

    with mistakes("nothing was written"):
        from sweeps.report import page_file
        from sweeps.steering.naming import compare_named, named, parts

        if others or parts(sweep)[1] is not None:
            if follow:
                raise ConfigError(["--follow: goes with one sweep, not with a comparison: leave out one of the two"])
            sweeps = compare_named(named([sweep, *(others or ())], storage, time.time(), has_address=False))
            path = page_file.make_of_sweeps(sweeps, output, time.time(), price)
            print(json.dumps(sweeps.as_json() | {"report": str(path)}) if as_json else path)
            return
        folder = find_sweep(sweep, storage, has_address=False)
        if follow:
            _follow(folder, output, price)
        path, found = page_file.make(folder, output, time.time(), price)
    if found.is_running:
        say(f"the sweep runs: the page shows it as of {found.made}")
    if as_json:
        print(json.dumps({"sweep": found.sweep_id, "report": str(path), "state": found.status, "made": found.made}))
    else:
        print(path)


def _follow(folder: SweepFolder, output: Path | None, price: float | None) -> None:
    """Writes the page, which reloads itself, as events come, until the sweep has ended or a signal comes.

    The pause is twice as long as a page took, so that the page of a large sweep does not use up a processor.
    """
    import threading
    import time

    from sweeps.report import page_file
    from sweeps.steering.stop import Interrupted, raising_on_signals

    path, pause, written = page_file.output_of(folder, output), threading.Event(), -1
    with suppress(Interrupted), raising_on_signals():
        while True:
            began = time.monotonic()
            size = folder.events.stat().st_size if folder.events.exists() else 0
            found = page_file.read_page(folder, time.time(), price)
            if not found.is_running:
                return
            if size != written:
                page_file.write(path, page_file.render(found, TURN_SECONDS))
                if written < 0:
                    say(f"{path} follows the sweep: open it in a browser; Ctrl-C ends this, and the sweep goes on")
            written = size
            pause.wait(max(TURN_SECONDS, 2 * (time.monotonic() - began)))
