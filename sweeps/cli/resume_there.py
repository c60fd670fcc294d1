"""`qsweep resume SWEEP --address URL`: a sweep goes on as a job of a Ray cluster, whose head node has its folder."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.cli.shared import mistakes, say
from sweeps.cli.submitted import follow_or_leave, stop_it
from sweeps.config.passwords import shown_store
from sweeps.config.uris import WORK_FOLDER, bucket_problem, is_object_store
from sweeps.errors import ConfigError

if TYPE_CHECKING:
    from cluster.submission.jobs import Jobs

MOST_OF_NAME = 90
"""Most characters of a sweep's name or id in the id of its job."""


@dataclass(frozen=True)
class There:
    """A sweep as its head node knows it."""

    sweep: str
    """Id, name, folder on the head node, or mirror."""
    storage: str
    """Folder where the sweep is looked for or fetched to, relative to the home folder on the head node."""
    trainable: str = ""
    """Trainable of the sweep, if known. A user's own trainable travels with the job."""


def resume_there(  # noqa: PLR0913 - the command's options
    sweep: str,
    storage: Path,
    tracking_uri: str | None,
    resend: bool,
    take_over: bool,
    address: str,
    submission_id: str | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Submits a job that goes on with the sweep, and follows it unless `detach`."""
    with mistakes():
        from cluster.submission.jobs import check_id, connect
        from sweeps.cli import sending

        if submission_id is not None:
            check_id(submission_id)
        wrong = problems(sweep, tracking_uri, (Path.cwd(), Path.home()))
        if wrong:
            raise ConfigError(wrong)
        jobs = connect(address)
        there = _look_up(jobs, sweep, str(storage), submission_id)
        files, told = sending.files_to_resend(there.sweep)
        for line in (_place(there), told):
            say(f"note: {line}")
        job_id = submission_id or _new_id(sweep)
        tracking = () if tracking_uri is None else ("--tracking-uri", tracking_uri)
        options = (*tracking, *(("--resend",) if resend else ()), *(("--take-over",) if take_over else ()))
        _submit(jobs, job_id, there, options, files)
    follow_or_leave(jobs, job_id, detach, as_json)


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


def _look_up(jobs: Jobs, sweep: str, storage: str, submission_id: str | None) -> There:
    """Looks up the sweep by the job that launched or resumed it, else takes the sweep as it is named here.

    Raises:
        SubmissionFailed: the job is no sweep or still runs, or another job runs its sweep. The last is no error if a
            job with `submission_id` exists: the cluster then answers that the job was submitted already.
    """
    from cluster.errors import SubmissionFailed
    from cluster.submission.jobs import is_id

    # Only the head node can find a mirror, a folder, or a sweep whose job Ray has forgotten.
    if not is_id(sweep) or jobs.look_up(sweep) is None:
        return There(sweep, storage)
    state = jobs.find(sweep)
    if not state.has_ended:
        raise SubmissionFailed(
            f"{sweep}: its job has not ended ({state.status}): qsweep status {sweep} --address {jobs.address} shows "
            "it, and qsweep stop ends it"
        )
    running = jobs.running_instead(state)
    if running is not None and (submission_id is None or jobs.look_up(submission_id) is None):
        raise SubmissionFailed(
            f"{sweep}: the job {running} runs it: qsweep status {running} --address {jobs.address} shows it, and "
            f"{stop_it(running, jobs.address)} ends it"
        )
    place = state.metadata.get("storage", storage) if storage == WORK_FOLDER else storage
    return There(state.sweep, place, state.metadata.get("trainable", ""))


def _place(there: There) -> str:
    if is_object_store(there.sweep):
        return f"the head node fetches the sweep into {there.storage} in its home folder, with its own credentials"
    return f"the sweep's folder must be on the head node: {there.sweep}, looked for in {there.storage} there"


def _new_id(sweep: str) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", sweep.rstrip("/").rpartition("/")[2]).strip("._-")[:MOST_OF_NAME]
    return f"{name or 'sweep'}-resumed-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _submit(jobs: Jobs, job_id: str, there: There, options: tuple[str, ...], files: Mapping[str, bytes | Path]) -> None:
    from cluster.submission import package
    from cluster.submission.jobs import Job
    from sweeps.cli.sending import send

    words = ("resume", there.sweep, "--storage", there.storage, *options, "--json")
    metadata = {"sweep": there.sweep, "storage": there.storage, "trainable": there.trainable}
    contents = {**package.code(), **package.own_module(there.trainable), **files}
    send(jobs, Job(job_id, words, metadata), contents)
