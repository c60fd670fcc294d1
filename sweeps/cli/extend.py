"""`qsweep extend SWEEP KEY=VALUE...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.shared import Json, LocalSweep, Storage, find_sweep, mistakes
from sweeps.cli.submitted import Address, ask_there


def extend(
    sweep: LocalSweep,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="KEY=VALUE", help="budget.trials, .wall_clock, .gpu_hours, .patience or cluster.hosts."),
    ],
    storage: Storage = Path("results"),
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Change the budgets of a sweep, or its number of hosts, while it runs or after it has ended."""
    from sweeps import launch as launching
    from sweeps.cli import requests
    from sweeps.steering.mailbox import ExtendSweep

    with mistakes(untouched="nothing was changed"):
        request = ExtendSweep(sender="qsweep extend", changes=requests.values_of(changes))
        ask_there(address, as_json, "extend", sweep, *changes)
        folder = find_sweep(sweep, storage)
        answer = launching.ask_for_more(folder, request)
    requests.tell(folder, answer, as_json)
