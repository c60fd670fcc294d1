"""`qsweep stop SWEEP [TRIAL]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.shared import Json, LocalSweep, Storage, mistakes, say

ANSWER_SECONDS = 30.0
"""How long to wait for the driver's answer, which usually comes within a second."""
TURN_SECONDS = 0.2


def stop(
    sweep: LocalSweep,
    trial: Annotated[
        str | None, typer.Argument(metavar="[TRIAL]", help="End only this trial, for good: a key, or t03.")
    ] = None,
    storage: Storage = Path("results"),
    as_json: Json = False,
) -> None:
    """End a running sweep in order, or one of its trials; `qsweep resume` goes on with a sweep."""
    import threading
    import time

    from sweeps.steering import asking, local_sweeps
    from sweeps.steering.mailbox import Request, StopSweep, StopTrial

    sender = "qsweep stop"
    request: Request = StopSweep(sender=sender) if trial is None else StopTrial(sender=sender, trial=trial)
    deadline = time.monotonic() + ANSWER_SECONDS
    pause = threading.Event()

    def is_over() -> bool:
        return pause.wait(TURN_SECONDS) or time.monotonic() > deadline

    with mistakes():
        folder = local_sweeps.find(sweep, storage)
        answer = asking.ask(folder, request, is_over)
    if answer is None:
        say(f"no answer within {ANSWER_SECONDS:.0f} s: the request waits in {folder.requests} and may yet be answered")
        raise typer.Exit(1)
    say(f"{'' if answer.is_accepted else 'refused: '}{answer.message}")
    if as_json:
        print(json.dumps({"dir": str(folder.path), "accepted": answer.is_accepted, "message": answer.message}))
    raise typer.Exit(0 if answer.is_accepted else 2)
