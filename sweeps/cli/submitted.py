"""What the commands for submitted sweeps share: the cluster's address, and how a sweep is asked there."""

from __future__ import annotations

import json
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

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


def ask_there(sweep: str, address: str, verb: str, words: tuple[str, ...], as_json: bool) -> NoReturn:
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
        from cluster.submission.following import Printed, exit_code
        from cluster.submission.jobs import Job

        seen = jobs.find(sweep)
        storage = ("--storage", local_storage(seen.metadata.get("storage", "results")))
        words = (verb, sweep, *words, *storage, "--json")
        job = Job(f"{sweep}-{verb}-{secrets.token_hex(3)}", sweep, words, {"of": sweep})
        printed = Printed(say)
        answered = _ended(jobs, job, seen, printed)
    say_end(job.job_id, answered)
    if as_json:
        print_closing(printed)
    raise typer.Exit(exit_code(answered))


def say_end(job_id: str, seen: Seen) -> None:
    """Says how a job ended that Ray ended, or could not start."""
    if seen.exit_code is None:
        say(f"{job_id}: {seen.status}{f': {seen.message}' if seen.message else ''}")


def say_not_known(jobs: Jobs, sweep: str) -> None:
    """Says how to see whether a request has come to a submitted sweep; what was lost may have been the answer alone."""
    say(f"it is not known whether the request was taken: qsweep status {sweep} --address {jobs.address} shows it")


def _ended(jobs: Jobs, job: Job, of: Seen, printed: Printed) -> Seen:
    """What became of a job that is submitted now; ends the command where that is not known."""
    from cluster.errors import ConnectionFailed
    from cluster.submission.following import give_up, wait
    from sweeps.steering.stop import Interrupted, raising_on_signals

    try:
        with raising_on_signals():
            _submit(jobs, job, of)
            return wait(jobs, job.job_id, printed)
    except ConnectionFailed as error:
        say(f"error: {error}")
        code = 1
    except Interrupted as interrupted:
        code = interrupted.exit_code
    if job.words[0] != "status":
        say_not_known(jobs, job.sweep_id)
    if not give_up(jobs, job.job_id):
        say(f"a job may be left in Ray's list: ray job delete {job.job_id} --address {jobs.address} removes it")
    raise typer.Exit(code)


def _submit(jobs: Jobs, job: Job, of: Seen) -> None:
    """Submits with the package of the sweep; with the code alone when that may be gone with the sweep's end."""
    from cluster.submission import package

    if of.package is not None and not of.has_ended:
        jobs.submit(job, of.package)
        return
    with tempfile.TemporaryDirectory(prefix="qsweep-submit-") as folder:
        archive = Path(folder) / "code.zip"
        package.write(archive, package.code())
        jobs.submit(job, archive)
