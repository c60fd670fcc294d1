"""`qsweep plan FILE`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.shared import Changes, File, Json, Price, load_sweep, mistakes, print_result, say

if TYPE_CHECKING:
    from sweeps.config.load import LoadedSweep

Calibrating = Annotated[
    bool,
    typer.Option("--calibrate", help="First train about a dozen steps here, so that the plan can tell time and cost."),
]


def plan(
    file: File, changes: Changes = None, calibrate: Calibrating = False, price: Price = None, as_json: Json = False
) -> None:
    """Show what a sweep will do and cost, without starting anything. What cannot run is exit code 2."""
    from sweeps.planning import this_machine

    with mistakes(""):
        sweep = load_sweep(file, changes)
        if this_machine.fetch_config(sweep):
            sweep = load_sweep(file, changes)
        if calibrate:
            say("calibrating: the base is loaded, and about a dozen steps are trained")
            this_machine.calibrate(sweep)
        show_plan(sweep, price, as_json)


def show_plan(sweep: LoadedSweep, price: float | None, as_json: bool) -> None:
    """Prints the plan of a sweep on this machine."""
    from sweeps.planning import this_machine
    from sweeps.report.plan_lines import plan_lines

    with mistakes(""):
        sweep, how = this_machine.with_trials(sweep)
        planned = this_machine.plan_here(sweep).at(price)
    if how is not None:
        say(how)
    for line in plan_lines(planned):
        print_result(line, as_json or line.startswith("warning: "))
    if as_json:
        print(json.dumps(planned.as_json()))
    if not planned.fits:
        say("error: a host does not have the memory that this plan needs (a warning above has both numbers)")
        raise typer.Exit(2)
