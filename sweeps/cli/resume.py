"""`qsweep resume SWEEP`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sweeps.cli.shared import (
    Json,
    LocalSweep,
    Promoting,
    Storage,
    ending_on_signals,
    find_sweep,
    mistakes,
    not_empty,
    say,
)
from sweeps.cli.sweep_end import check_promotion, finish

TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="With a mirror: replace a driver that was heard of less than 2 minutes ago."),
]


def resume(  # noqa: PLR0913 - its options
    sweep: LocalSweep,
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", callback=not_empty, help="Send everything to this MLflow from now on."),
    ] = None,
    resend: Annotated[
        bool, typer.Option("--resend", help="Send MLflow all events again: it has lost them, or is an older backup.")
    ] = False,
    take_over: TakeOver = False,
    promote: Promoting = False,
    storage: Storage = Path("results"),
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="URL", help="Go on there, as a job: a cluster's dashboard, http://HOST:8265."
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="With --address: do not follow the sweep.")] = False,
    submission_id: Annotated[
        str | None, typer.Option("--submission-id", metavar="ID", help="With --address: the id of the job.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Go on with a sweep that was interrupted or lost its driver; send what MLflow or the mirror has not taken.

    A sweep's mirror, such as s3://BUCKET/PREFIX/NAME, is fetched into --storage first. With --address, the sweep goes
    on as a job of a Ray cluster that this machine is not part of: SWEEP and --storage are those of its head node.
    """
    import time

    started = time.time()
    if take_over:
        _refuse_folder(sweep)
    if address is not None and not promote:
        from sweeps.cli.resume_there import resume_there
        from sweeps.cli.submitted import follow_or_leave

        with mistakes():
            options = (*(["--resend"] if resend else []), *(["--take-over"] if take_over else []))
            jobs, job_id = resume_there(sweep, str(storage), tracking_uri, options, address, submission_id)
        follow_or_leave(jobs, job_id, detach, as_json)
        return
    with mistakes():  # Also mistakes in environment variables that modules read when they are imported.
        _refuse_options(address, detach, submission_id)
        from sweeps import launch as launching
        from sweeps import saved_sweep
        from sweeps.config.uris import is_object_store
        from sweeps.record.folder import SweepFolder
        from sweeps.report import summary

        folder = _fetched(sweep, storage, take_over) if is_object_store(sweep) else _named(sweep, storage)
        if promote:
            check_promotion(saved_sweep.load(SweepFolder(folder), tracking_uri)[0].config)
        resumed, result = launching.resume(folder, summary.displays(started), tracking_uri, resend=resend)
    finish(resumed, result, promote, as_json)


def _refuse_options(address: str | None, detach: bool, submission_id: str | None) -> None:
    from sweeps.errors import ConfigError

    if address is not None:
        raise ConfigError(["--promote: not with --address: run qsweep promote on the head node afterwards"])
    if detach or submission_id is not None:
        raise ConfigError([f"--{'detach' if detach else 'submission-id'}: needs --address, the cluster's dashboard"])


def _refuse_folder(sweep: str) -> None:
    from sweeps.config.uris import is_object_store
    from sweeps.errors import ConfigError

    with mistakes():
        if not is_object_store(sweep):
            way_out = "leave it out: the lock of a sweep's folder tells whether its driver lives"
            raise ConfigError([f"--take-over: needs a mirror, s3://BUCKET/PREFIX/NAME, and not {sweep}; {way_out}"])


def _named(sweep: str, storage: Path) -> Path:
    """Returns the folder of a sweep on this machine. Raises `SweepError` if no sweep has this id or name."""
    from sweeps.errors import SweepError
    from trainables.inputs import paths

    here = paths.absolute(paths.at_home(Path(sweep)))
    if "/" in sweep:
        return here
    try:
        return paths.absolute(find_sweep(sweep, storage).path)
    except SweepError:
        if not paths.is_folder(here):
            raise
        return here  # If the folder holds no sweep, a later error names the sweeps below it.


def _fetched(mirror: str, storage: Path, take_over: bool) -> Path:
    """Fetches a sweep from an object store; returns its folder."""
    from sweeps.mirror.fetching import fetch

    with ending_on_signals(f"interrupted: qsweep resume {mirror} begins anew"):
        return fetch(mirror, storage, say, take_over)
