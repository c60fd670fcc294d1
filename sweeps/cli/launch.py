"""`qsweep launch FILE`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import typer

from sweeps.cli.shared import (
    Changes,
    Detach,
    File,
    Json,
    Offline,
    Promoting,
    as_words,
    load_sweep,
    mistakes,
    print_result,
    say,
)
from sweeps.cli.sweep_end import check_promotion, finish

if TYPE_CHECKING:
    from sweeps.config.load import LoadedSweep
    from sweeps.planning.plan import Plan


def launch(
    file: File,
    changes: Changes = None,
    promote: Promoting = False,
    offline: Offline = False,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Run a sweep."""
    asked = Asked(promote, offline, detach, as_json)
    run(lambda: load_sweep(file, changes), ["plan", file, *as_words(changes)], asked)


class Asked(NamedTuple):
    """The options of a command that runs a sweep."""

    promote: bool
    offline: bool
    detach: bool
    as_json: bool


def run(made: Callable[[], LoadedSweep], plan: list[str], asked: Asked) -> None:
    """Runs the sweep that `made` returns, and ends the command; `plan` are the words of the command that plans it."""
    import time

    started = time.time()
    with mistakes():  # Also mistakes in environment variables that modules read when they are imported.
        from sweeps import launch as launching
        from sweeps.report import summary
        from sweeps.report.plan_lines import launch_lines

        sweep = made()
        if asked.promote:
            check_promotion(sweep.config)
        sweep, planned = launching.prepare(sweep, say, asked.offline)
    more = f"{summary.command('qsweep')} {shlex.join(plan)}"
    if asked.detach:
        _detach(sweep, planned, more, asked)
    displays = summary.displays(started, planned.trials, lambda folder: launch_lines(planned, folder, more))
    with mistakes("no trial was started"):
        result = launching.launch(sweep, displays, planned=planned)
    finish(sweep, result, asked.promote, asked.as_json)


def _detach(sweep: LoadedSweep, planned: Plan, more: str, asked: Asked) -> NoReturn:
    """Starts the sweep's driver as a process of its own; ends the command once the driver has the sweep."""
    from sweeps import launch as launching
    from sweeps.report import summary
    from sweeps.report.plan_lines import launch_lines
    from sweeps.steering import driver_process

    with mistakes("no trial was started"):
        launching.earlier_of(sweep.config)
        folder, sweep_id = launching.create_folder(sweep, planned)
        for line in launch_lines(planned, folder.path, more):
            say(line)
        process = driver_process.start(folder, ["--promote"] if asked.promote else [])
        driver_process.wait_until_it_drives(folder, process)
    where, command = shlex.quote(summary.from_here(folder.path)), summary.command("qsweep")
    if code := process.poll():
        say(f"error: its driver has ended with exit code {code}; {command} logs {where} says why")
        raise typer.Exit(code)
    print_result("see, follow and stop it with", asked.as_json)
    for words in (f"status {where}", f"logs {where} --follow", f"stop {where}"):
        print_result(f"  {command} {words}", asked.as_json)
    if asked.as_json:
        print(json.dumps({"sweep": sweep_id, "dir": str(folder.path), "detached": True}))
    raise typer.Exit
