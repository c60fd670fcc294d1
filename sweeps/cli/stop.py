"""`qsweep stop SWEEP [TRIAL]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.shared import Json, LocalSweep, Storage, find_sweep, mistakes
from sweeps.cli.submitted import Address, ask_there


def stop(
    sweep: LocalSweep,
    trial: Annotated[
        str | None, typer.Argument(metavar="[TRIAL]", help="End only this trial, for good: a key, or t03.")
    ] = None,
    storage: Storage = Path("results"),
    address: Address = None,
    as_json: Json = False,
) -> None:
    """End a running sweep in order, or one of its trials; `qsweep resume` goes on with a sweep."""
    from sweeps.cli import requests
    from sweeps.steering import asking
    from sweeps.steering.mailbox import Request, StopSweep, StopTrial

    ask_there(address, as_json, "stop", sweep, *([] if trial is None else [trial]))
    sender = "qsweep stop"
    request: Request = StopSweep(sender=sender) if trial is None else StopTrial(sender=sender, trial=trial)
    with mistakes():
        folder = find_sweep(sweep, storage)
        answer = asking.answer(folder, request)
    requests.tell(folder, answer, as_json)
