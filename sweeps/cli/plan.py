"""`qsweep plan FILE`."""

from __future__ import annotations

import json

from sweeps.cli.shared import Changes, File, Json, load_sweep, mistakes, show_plan


def plan(file: File, changes: Changes = None, as_json: Json = False) -> None:
    """Show what a sweep will do and cost, without starting anything."""
    from sweeps.planning import this_machine

    with mistakes():
        planned = this_machine.plan_here(load_sweep(file, changes))
    show_plan(planned)
    if as_json:
        print(json.dumps(planned.as_json()))
