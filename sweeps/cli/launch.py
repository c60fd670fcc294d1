"""`qsweep launch FILE`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from sweeps.cli.shared import Changes, File, Json, Offline, Promoting, as_words, load_sweep, mistakes, say
from sweeps.cli.sweep_end import check_promotion, finish

if TYPE_CHECKING:
    from sweeps.config.load import LoadedSweep


def launch(
    file: File,
    changes: Changes = None,
    promote: Promoting = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Run a sweep."""
    run(lambda: load_sweep(file, changes), ["plan", file, *as_words(changes)], promote, offline, as_json)


def run(made: Callable[[], LoadedSweep], plan: list[str], promote: bool, offline: bool, as_json: bool) -> None:
    """Runs the sweep that `made` returns, and ends the command; `plan` are the words of the command that plans it."""
    import time

    started = time.time()
    with mistakes():  # Also mistakes in environment variables that modules read when they are imported.
        from sweeps import launch as launching
        from sweeps.report import summary
        from sweeps.report.plan_lines import launch_lines

        sweep = made()
        if promote:
            check_promotion(sweep.config)
        sweep, planned = launching.prepare(sweep, say, offline)
    more = f"{summary.command('qsweep')} {shlex.join(plan)}"
    displays = summary.displays(started, planned.trials, lambda folder: launch_lines(planned, folder, more))
    with mistakes("no trial was started"):
        result = launching.launch(sweep, displays, planned=planned)
    finish(sweep, result, promote, as_json)
