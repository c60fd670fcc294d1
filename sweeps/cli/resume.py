"""`qsweep resume SWEEP`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.shared import Json, LocalSweep, Promoting, Storage, mistakes
from sweeps.cli.sweep_end import check_promotion, finish


def resume(
    sweep: LocalSweep,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="Send everything to this MLflow from now on.")
    ] = None,
    promote: Promoting = False,
    storage: Storage = Path("results"),
    as_json: Json = False,
) -> None:
    """Go on with a sweep that was interrupted or lost its driver; send what MLflow has not taken."""
    import time

    from sweeps import launch as launching
    from sweeps import saved_sweep
    from sweeps.record.folder import SweepFolder
    from sweeps.report import summary
    from sweeps.steering import local_sweeps
    from trainables.inputs import paths

    started = time.time()
    with mistakes():
        folder = Path(sweep).resolve()
        # A folder that holds no sweep is told by the sweeps that are in it.
        if "/" not in sweep and not paths.is_folder(folder):
            folder = local_sweeps.find(sweep, storage).path.resolve()
        if promote:
            check_promotion(saved_sweep.load(SweepFolder(folder), tracking_uri)[0].config)
        resumed, result = launching.resume(folder, summary.displays(started), tracking_uri)
    finish(resumed, result, promote, as_json)
