"""`qsweep logs SWEEP`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.shared import Storage, ending_on_signals, find_sweep, mistakes
from sweeps.cli.submitted import Address
from sweeps.cli.submitted import follow as follow_sweep
from sweeps.errors import SweepError


def logs(
    sweep: Annotated[
        str, typer.Argument(metavar="SWEEP", help="The id of a submitted sweep, or a sweep of this machine.")
    ],
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the sweep has ended.")] = False,
    storage: Storage = Path("results"),
) -> None:
    """Print what the drivers of a sweep have printed, whether it runs or not; of a submitted sweep, its job."""
    if address is None:
        _of_this_machine(sweep, storage, follow)
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


def _of_this_machine(sweep: str, storage: Path, follow: bool) -> None:
    from sweeps.steering import driver_process

    with ending_on_signals("this ends the following, and not the sweep"), mistakes():
        folder = find_sweep(sweep, storage)
        show = driver_process.lines(folder.driver_log)
        if follow:
            driver_process.follow(folder, None, show)
        show()
        if not folder.driver_log.exists():
            raise SweepError(f"{folder.driver_log}: is not there yet; qsweep status {folder.path} shows the sweep")
