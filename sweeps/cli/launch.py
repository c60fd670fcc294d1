"""`qsweep launch FILE`."""

from __future__ import annotations

from sweeps.cli.shared import Changes, File, Json, Offline, Promoting, load_sweep, mistakes, say, show_plan
from sweeps.cli.sweep_end import check_promotion, finish


def launch(
    file: File,
    changes: Changes = None,
    promote: Promoting = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Run a sweep."""
    import time

    started = time.time()
    with mistakes():  # Also of the environment variables that modules read when they are imported.
        from sweeps import launch as launching
        from sweeps.report import summary

        sweep = load_sweep(file, changes)
        if promote:
            check_promotion(sweep.config)
        sweep, planned = launching.prepare(sweep, say, offline)
        show_plan(planned)
    with mistakes("no trial was started"):
        result = launching.launch(sweep, summary.displays(started, planned.trials), planned=planned)
    finish(sweep, result, promote, as_json)
