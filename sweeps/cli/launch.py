"""`qsweep launch FILE`."""

from __future__ import annotations

import shlex

from sweeps.cli.shared import Changes, File, Json, Offline, Promoting, as_words, load_sweep, mistakes, say
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
    with mistakes():  # Also mistakes in environment variables that modules read when they are imported.
        from sweeps import launch as launching
        from sweeps.report import summary
        from sweeps.report.plan_lines import launch_lines

        sweep = load_sweep(file, changes)
        if promote:
            check_promotion(sweep.config)
        sweep, planned = launching.prepare(sweep, say, offline)
    more = f"{summary.command('qsweep')} plan {shlex.join([file, *as_words(changes)])}"
    displays = summary.displays(started, planned.trials, lambda folder: launch_lines(planned, folder, more))
    with mistakes("no trial was started"):
        result = launching.launch(sweep, displays, planned=planned)
    finish(sweep, result, promote, as_json)
