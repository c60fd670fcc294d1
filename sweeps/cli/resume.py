"""`qsweep resume DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.shared import Json, Promoting, mistakes
from sweeps.cli.sweep_end import check_promotion, finish


def resume(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The sweep's folder.")],
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Send everything to this MLflow from now on.")
    ] = None,
    promote: Promoting = False,
    as_json: Json = False,
) -> None:
    """Go on with a sweep that was interrupted or lost its driver; send what MLflow has not taken."""
    import time

    from sweeps import launch as launching
    from sweeps import saved_sweep
    from sweeps.record.folder import SweepFolder
    from sweeps.report import summary

    started = time.time()
    with mistakes():
        if promote:
            check_promotion(saved_sweep.load(SweepFolder(folder.resolve()), tracking_uri)[0].config)
        sweep, result = launching.resume(folder.resolve(), summary.displays(started), tracking_uri)
    finish(sweep, result, promote, as_json)
