"""`qsweep add SWEEP FIELD=VALUE...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.shared import Json, LocalSweep, Storage, find_sweep, mistakes
from sweeps.cli.submitted import Address, ask_there


def add(
    sweep: LocalSweep,
    values: Annotated[
        list[str],
        typer.Argument(
            metavar="FIELD=VALUE", help="Searched fields, such as learning_rate=3e-4; others keep the file's value."
        ),
    ],
    storage: Storage = Path("results"),
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Try a point next: one trial beyond budget.trials. If the sweep does not run, resume tries the point."""
    from sweeps import launch as launching
    from sweeps.cli import requests
    from sweeps.steering.mailbox import AddPoint

    with mistakes(untouched="nothing was added"):
        request = AddPoint(sender="qsweep add", values=requests.values_of(values))
        ask_there(address, as_json, "add", sweep, *values)
        folder = find_sweep(sweep, storage)
        answer = launching.ask_for_more(folder, request)
    requests.tell(folder, answer, as_json)
