"""`qsweep logs SWEEP`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.shared import Storage, mistakes, say
from sweeps.cli.submitted import Address
from sweeps.cli.submitted import follow as follow_sweep


def logs(
    sweep: Annotated[
        str, typer.Argument(metavar="SWEEP", help="The id of a submitted sweep, or a sweep of this machine.")
    ],
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the sweep has ended.")] = False,
    storage: Storage = Path("results"),
) -> None:
    """Print what a submitted sweep has printed, or say where a sweep of this machine keeps its events."""
    if address is None:
        _of_this_machine(sweep, storage)
        return
    with mistakes():
        from cluster.submission.following import lines_of
        from cluster.submission.jobs import connect

        jobs = connect(address)
        jobs.find(sweep)
        lines = [] if follow else lines_of(jobs.logs(sweep))
    if follow:
        follow_sweep(jobs, sweep, as_json=False)
    for line in lines:
        print(line)


def _of_this_machine(sweep: str, storage: Path) -> None:
    from sweeps.steering import local_sweeps

    with mistakes():
        folder = local_sweeps.find(sweep, storage)
    say("a sweep of this machine prints to the terminal that it was launched in; every event of it is in")
    print(folder.events)
    say(f"qsweep status {folder.path} shows what they add up to; a submitted sweep needs --address")
