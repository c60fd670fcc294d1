"""`qsweep report SWEEP`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.shared import Json, LocalSweep, Storage, mistakes, say


def report(
    sweep: LocalSweep,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Where to write the page; report.html in the sweep's folder."),
    ] = None,
    storage: Storage = Path("results"),
    as_json: Json = False,
) -> None:
    """Write a sweep, also one that runs, as one HTML page with tables and charts, to read offline, keep and send."""
    import time

    with mistakes("nothing was written"):
        from sweeps.report import page_file
        from sweeps.steering import local_sweeps

        folder = local_sweeps.find(sweep, storage, has_address=False)
        path, found = page_file.make(folder, output, time.time())
    if found.is_running:
        say(f"the sweep runs: the page shows it as of {found.made}")
    if as_json:
        print(json.dumps({"sweep": found.sweep_id, "report": str(path), "state": found.status, "made": found.made}))
    else:
        print(path)
