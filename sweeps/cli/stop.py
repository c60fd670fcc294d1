"""`qsweep stop SWEEP [TRIAL]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sweeps.cli.shared import Json, LocalSweep, Storage, mistakes, say
from sweeps.cli.submitted import Address, ask_there, say_not_known, stop_it


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
    from sweeps.steering import asking, local_sweeps
    from sweeps.steering.mailbox import Request, StopSweep, StopTrial

    sender = "qsweep stop"
    if address is not None and trial is not None:
        ask_there(sweep, address, ("stop", trial), as_json)
    elif address is not None:
        _stop_job(sweep, address, as_json)
    request: Request = StopSweep(sender=sender) if trial is None else StopTrial(sender=sender, trial=trial)
    with mistakes():
        folder = local_sweeps.find(sweep, storage)
        answer = asking.answer(folder, request)
    requests.tell(folder, answer, as_json)


def _stop_job(sweep: str, address: str, as_json: bool) -> NoReturn:
    """Ends a submitted sweep in order: Ray sends the driver SIGTERM, which has the effect of a request."""
    with mistakes():
        from cluster.errors import ConnectionFailed
        from cluster.submission.jobs import STOP_SECONDS, connect

        jobs = connect(address)
        state = jobs.find(sweep)
        try:
            is_stopping = not state.has_ended and jobs.stop(sweep)
            state = state if is_stopping else jobs.find(sweep)
        except ConnectionFailed as error:
            say(f"error: {error}")
            say_not_known(jobs, sweep)
            raise typer.Exit(1) from None
        running = None if is_stopping else jobs.running_instead(state)
    if is_stopping:
        message = f"stopping: trials are saved at their next step; after {STOP_SECONDS} s Ray ends what is left"
    elif running is not None:
        message = f"its job has ended: {state.status}; {running} runs the sweep now: {stop_it(running, jobs.address)}"
    else:
        message = (
            f"its job has ended: {state.status}; where another job, or a machine, has resumed the sweep, stop it there"
        )
    say(f"{'' if is_stopping else 'refused: '}{message}")
    if as_json:
        print(json.dumps({"submission_id": sweep, "accepted": is_stopping, "message": message}))
    raise typer.Exit(0 if is_stopping else 2)
