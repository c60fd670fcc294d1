"""`qsweep submit FILE --address URL`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.shared import Changes, File, Json, NoFiles, Offline, mistakes, say
from sweeps.cli.submitted import stop_it

if TYPE_CHECKING:
    from cluster.submission.jobs import Job, Jobs
    from sweeps.config.load import Sweep
    from sweeps.config.shipping import Shipment


def submit(  # noqa: PLR0913 - its options
    file: File,
    changes: Changes = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="URL", help="The cluster's dashboard: http://HOST:8265.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the sweep.")] = False,
    submission_id: Annotated[
        str | None, typer.Option("--submission-id", metavar="ID", help="Its id; the same one starts no second sweep.")
    ] = None,
    no_files: NoFiles = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Run a sweep on a Ray cluster that this machine is not part of, as a job of Ray's, and follow it."""
    with mistakes():
        from cluster.submission.jobs import check_id

        if submission_id is not None:
            check_id(submission_id)
        sweep, shipment = check(file, changes, address, no_files)
        for line in _notices(sweep, shipment):
            say(f"note: {line}")
        name = sweep.config.name
        job_id = submission_id or f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        check_id(job_id)
        jobs = _submit(sweep, shipment, str(address), job_id, offline)
    follow_or_leave(jobs, job_id, detach, as_json)


def check(file: str, changes: list[str] | None, address: str | None, no_files: bool) -> tuple[Sweep, Shipment]:
    """The sweep, and what travels with it; nothing has been sent.

    Raises:
        ConfigError, SubmissionFailed: with a line for each mistake.
    """
    from cluster.submission.jobs import check_address
    from sweeps.cli.shared import as_words
    from sweeps.config import load, shipping
    from sweeps.errors import ConfigError

    if not address:
        raise ConfigError(["--address: is needed: the cluster's dashboard, such as http://HOST:8265"])
    check_address(address)
    words, here = as_words(changes), Path.cwd()
    given = load.read(file, words, here)[0].get("cluster")
    if not isinstance(given, dict) or "profile" not in given:
        words.append("cluster.profile=attached")
    shipment = shipping.pack(load.read(file, words, here)[0], (here, Path.home()), not no_files)
    sweep = load.load(file, words, here, shipment.there)
    wrong = shipping.refusals(sweep.config)
    if wrong:
        raise ConfigError(wrong)
    return sweep, shipment


def follow_or_leave(jobs: Jobs, job_id: str, detach: bool, as_json: bool) -> None:
    """Says how a sweep is reached that was just submitted, and follows it unless `detach`."""
    _leave(jobs, job_id)
    if not detach:
        follow(jobs, job_id, as_json)
    elif as_json:
        print(json.dumps({"submission_id": job_id, "address": jobs.address, "detached": True}))


def follow(jobs: Jobs, job_id: str, as_json: bool) -> None:
    """Prints what a submitted sweep prints, and ends as it ends; Ctrl-C leaves the sweep running."""
    from cluster.errors import ClusterError
    from cluster.submission import following
    from sweeps.steering.stop import Interrupted, raising_on_signals

    try:
        with raising_on_signals():
            state, closing = following.follow(jobs, job_id, say)
    except Interrupted as interrupted:
        _leave(jobs, job_id, f"{job_id} goes on without being followed")
        raise typer.Exit(interrupted.exit_code) from None
    except ClusterError as error:
        _leave(jobs, job_id, f"error: {error}")
        raise typer.Exit(1) from None
    for line in state.end_lines:
        say(line)
    if closing is not None:
        say("the folders and commands above are those of the cluster's head node")
    if as_json:
        print(json.dumps({**(closing or {}), "submission_id": job_id, "address": jobs.address}), flush=True)
    raise typer.Exit(state.exit_code)


def send(jobs: Jobs, job: Job, contents: Mapping[str, bytes | Path]) -> None:
    """Submits a sweep's job, and says so; ends the command where it is not known whether the cluster has it."""
    from cluster.errors import ConnectionFailed

    say_other_version(jobs)
    not_known = (
        f"it is not known whether the sweep was submitted: the same command with --submission-id {job.job_id} is safe"
    )
    try:
        is_new = jobs.submit(job, contents)
    except ConnectionFailed as error:
        say(f"error: {error}")
        say(not_known)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say(not_known)
        raise
    say(f"submitted: {job.job_id}" if is_new else f"{job.job_id} was submitted already: no second sweep is started")


def say_other_version(jobs: Jobs) -> None:
    """Warns where the cluster has another Ray than this machine."""
    if jobs.other_version is not None:
        say(f"warning: the cluster has Ray {jobs.other_version}, which this project is not tested with")


def _leave(jobs: Jobs, job_id: str, line: str | None = None) -> None:
    """Says how a sweep is reached that goes on by itself."""
    if line is not None:
        say(line)
    say("see, follow and stop it with")
    say(f"  qsweep status {job_id} --address {jobs.address}")
    say(f"  qsweep logs {job_id} --address {jobs.address} --follow")
    say(f"  {stop_it(job_id, jobs.address)}")


def _notices(sweep: Sweep, shipment: Shipment) -> list[str]:
    from sweeps.config import shipping

    folder, store = shipping.places(shipment)
    megabytes = sum(shipping.size(path) for path in shipment.files.values()) / 1e6
    sent = f"{', '.join(map(str, shipment.files.values()))} ({megabytes:.1f} MB) travel with the sweep"
    return [
        sent if shipment.files else "only the sweep file travels with the sweep",
        "what travels stays on each node, in ~/.cache/qlora-sweeps/submitted, until you remove it",
        f"the sweep's folder on the head node, or {sweep.config.name}-2, ... beside it where it is taken: {folder}; "
        f"MLflow there: {store}",
        *shipping.notices(shipment, sweep.config),
    ]


def _submit(sweep: Sweep, shipment: Shipment, address: str, job_id: str, offline: bool) -> Jobs:
    """The cluster's jobs, of which the sweep's is one now."""
    from cluster.submission import on_node, package
    from cluster.submission.jobs import Job, connect
    from sweeps.cli import sent_files
    from sweeps.config import shipping

    name, trainable = sweep.config.name, sweep.config.trainable
    identity, files = package.sweep_files(shipment.text(), shipment.files)
    contents = {**package.code(), **package.own_module(trainable), **files}
    jobs = connect(address)
    metadata = {"name": name, "storage": shipping.storage(shipment), "content": identity, "trainable": trainable}
    sent = sent_files.Sent(
        sweep_id=job_id, name=name, mirror=shipping.mirror(shipment), content=identity,
        text=shipment.text(), files=shipment.files,
    )  # fmt: skip
    words = ("launch", f"{on_node.SHIPPED}:{identity}", *(["--offline"] if offline else []), "--json")
    with sent_files.noting(sent):
        send(jobs, Job(job_id, job_id, words, metadata), contents)
    return jobs
