"""`qsweep resume SWEEP --address URL`: a sweep goes on as a job of a Ray cluster, whose head node has its folder."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.cli.shared import say
from sweeps.config.passwords import shown_store
from sweeps.config.uris import WORK_FOLDER, bucket_problem, is_object_store
from sweeps.errors import ConfigError

if TYPE_CHECKING:
    from cluster.submission.jobs import Jobs, JobState

MOST_OF_NAME = 90
"""Most characters of a sweep's name or id in the id of its job."""


def resume_there(
    sweep: str,
    storage: str,
    tracking_uri: str | None,
    options: tuple[str, ...],
    address: str,
    submission_id: str | None,
) -> tuple[Jobs, str]:
    """Submits a job that goes on with the sweep; returns the cluster's jobs, and the job's id.

    Args:
        sweep: id of the job that launched or resumed the sweep; or the sweep's id, name, folder on the head node, or
            mirror.
        storage: folder where the sweep is looked for or fetched to, relative to the home folder on the head node.
        options: more words of the command.
    """
    from cluster.submission import package
    from cluster.submission.jobs import Job, check_id, connect
    from sweeps.cli import sending

    if submission_id is not None:
        check_id(submission_id)
    wrong = problems(sweep, tracking_uri, (Path.cwd(), Path.home()))
    if wrong:
        raise ConfigError(wrong)
    jobs = connect(address)
    state = _look_up(jobs, sweep, submission_id)
    known = {} if state is None else state.metadata
    there = sweep if state is None else state.sweep
    place = known.get("storage", storage) if storage == WORK_FOLDER else storage
    files, told = sending.files_to_resend(there)
    where = f"the sweep's folder must be on the head node: {there}, looked for in {place} there"
    if is_object_store(there):
        where = f"the head node fetches the sweep into {place} in its home folder, with its own credentials"
    for line in (where, told):
        say(f"note: {line}")
    job_id = submission_id or _new_id(sweep)
    tracking = () if tracking_uri is None else ("--tracking-uri", tracking_uri)
    # A user's own trainable travels with the job.
    metadata = {"sweep": there, "storage": place, "trainable": known.get("trainable", "")}
    contents = {**package.code(), **package.own_module(metadata["trainable"]), **files}
    words = ("resume", there, "--storage", place, *tracking, *options, "--json")
    sending.send(jobs, Job(job_id, words, metadata), contents)
    return jobs, job_id


def problems(sweep: str, tracking_uri: str | None, folders: tuple[Path, ...]) -> list[str]:
    """Says why a cluster cannot go on with the named sweep. Paths in `folders` are of this machine, not the cluster."""
    wrong = []
    if is_object_store(sweep):
        problem = bucket_problem(sweep)
        wrong += [] if problem is None else [f"{sweep}: {problem}"]
    elif "/" in sweep and not sweep.startswith("~/") and _is_here(Path(sweep), folders):
        wrong.append(
            f"{sweep}: is a path of this machine, and --address goes on with a sweep of the cluster: name it by its "
            "id, by its mirror (s3://BUCKET/PREFIX/NAME), or by its folder on the head node ('~/results/NAME', in "
            "quotes); without --address this machine goes on with it"
        )
    shown_store(tracking_uri, {})
    return wrong


def _is_here(path: Path, folders: tuple[Path, ...]) -> bool:
    return not path.is_absolute() or path.exists() or any(path.is_relative_to(folder) for folder in folders)


def _look_up(jobs: Jobs, sweep: str, submission_id: str | None) -> JobState | None:
    """Returns the job that launched or resumed the sweep; None if the cluster knows no such job.

    Raises:
        SubmissionFailed: the job is no sweep or still runs, or another job runs its sweep. The last is no error if a
            job with `submission_id` exists: the cluster then answers that the job was submitted already.
    """
    from cluster.errors import SubmissionFailed
    from cluster.submission.jobs import is_id

    # Only the head node can find a mirror, a folder, or a sweep whose job Ray has forgotten.
    if not is_id(sweep) or jobs.look_up(sweep) is None:
        return None
    state = jobs.find(sweep)
    running = jobs.running_instead(state) if state.has_ended else sweep
    why = f"the job {running} runs it" if state.has_ended else f"its job has not ended ({state.status})"
    if running is not None and (running == sweep or submission_id is None or jobs.look_up(submission_id) is None):
        raise SubmissionFailed(
            f"{sweep}: {why}: qsweep status {running} --address {jobs.address} shows it, and "
            f"qsweep stop {running} --address {jobs.address} ends it"
        )
    return state


def _new_id(sweep: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", sweep.rstrip("/").rpartition("/")[2]).strip("._-")[:MOST_OF_NAME]
    return f"{name or 'sweep'}-resumed-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
