"""`qsweep report SWEEP [SWEEP]...`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.shared import Json, LocalSweep, Price, Storage, mistakes, say


def report(
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
    storage: Storage = Path("results"),
    as_json: Json = False,
) -> None:
    """Write a sweep, also one that runs, as one HTML page with tables and charts, to read offline, keep and send."""
    import time

    with mistakes("nothing was written"):
        from sweeps.report import page_file
        from sweeps.steering import local_sweeps
        from sweeps.steering.naming import compare_named, named, parts

        if others or parts(sweep)[1] is not None:
            sweeps = compare_named(named([sweep, *(others or ())], storage, time.time(), has_address=False))
            path = page_file.make_of_sweeps(sweeps, output, time.time(), price)
            print(json.dumps(sweeps.as_json() | {"report": str(path)}) if as_json else path)
            return
        folder = local_sweeps.find(sweep, storage, has_address=False)
        path, found = page_file.make(folder, output, time.time(), price)
    if found.is_running:
        say(f"the sweep runs: the page shows it as of {found.made}")
    if as_json:
        print(json.dumps({"sweep": found.sweep_id, "report": str(path), "state": found.status, "made": found.made}))
    else:
        print(path)
