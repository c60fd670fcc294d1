"""What the commands for submitted sweeps share: the cluster's address, and how a sweep is asked there."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.shared import mistakes, say
from sweeps.config.uris import local_storage

if TYPE_CHECKING:
    from cluster.submission.following import Printed
    from cluster.submission.jobs import Job, Jobs, Seen

Address = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="The dashboard of the cluster that it was submitted to."),
]


def print_closing(printed: Printed, **more: object) -> None:
    """Prints the JSON line of a job, with what is added to it; of a job without one only that."""
    print(json.dumps({**(printed.closing or {}), **more}), flush=True)


def ways_on(job_id: str, address: str) -> list[str]:
    """The commands for a submitted sweep."""
    return [
        f"  qsweep status {job_id} --address {address}",
        f"  qsweep logs {job_id} --address {address} --follow",
        f"  qsweep stop {job_id} --address {address}",
    ]


def ask_there(sweep: str, address: str, verb: str, words: tuple[str, ...], as_json: bool) -> None:
    """Runs a command on a submitted sweep's head node, as a job of some seconds, and ends with its exit code.

    Args:
        sweep: the id of its job, which is also the sweep's.
        address: of the cluster's dashboard.
        verb: status, stop, add or extend.
        words: what follows the sweep's id.
        as_json: whether to print its JSON line.
    """
    with mistakes():
        from cluster.submission import connect

        jobs = connect(address)
        from cluster.submission.following import Printed, exit_code, wait
        from cluster.submission.jobs import Job

        seen = jobs.find(sweep)
        storage = ("--storage", local_storage(seen.metadata.get("storage", "results")))
        job = Job(f"{sweep}-{verb}-{secrets.token_hex(3)}", sweep, (verb, sweep, *words, *storage, "--json"))
        printed = Printed(say)
        _submit(jobs, job, seen, {"of": sweep})
        answered = wait(jobs, job.job_id, printed)
    if as_json:
        print_closing(printed)
    raise typer.Exit(exit_code(answered))


def _submit(jobs: Jobs, job: Job, seen: Seen, metadata: Mapping[str, str]) -> None:
    """Submits with the package of the sweep; with the code alone when that may be gone with the sweep's end."""
    from dataclasses import replace

    from cluster.submission import package

    job = replace(job, metadata=metadata)
    if seen.package is not None and not seen.has_ended:
        jobs.submit(job, seen.package)
        return
    with tempfile.TemporaryDirectory(prefix="qsweep-submit-") as folder:
        archive = Path(folder) / "code.zip"
        package.write(archive, package.code())
        jobs.submit(job, archive)
