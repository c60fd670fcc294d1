"""`qsweep submit FILE --address URL`."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from sweeps.cli.shared import Changes, File, Json, NoFiles, Offline, mistakes, say
from sweeps.cli.submitted import follow_or_leave

if TYPE_CHECKING:
    from sweeps.config.load import LoadedSweep
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
        from cluster.submission import on_node, package
        from cluster.submission.jobs import Job, check_id, connect
        from sweeps.cli import sending
        from sweeps.config import shipping

        if submission_id is not None:
            check_id(submission_id)
        sweep, shipment = sending.check_shipment(file, changes, address, no_files)
        for line in _notices(sweep, shipment):
            say(f"note: {line}")
        name = sweep.config.name
        job_id = submission_id or f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        check_id(job_id)
        identity, files = package.sweep_files(shipment.text(), shipment.files)
        trainable, storage = sweep.config.trainable, shipping.storage(shipment)
        contents = {**package.code(), **package.own_module(trainable), **files}
        jobs = connect(str(address))
        metadata = {"name": name, "storage": storage, "content": identity, "trainable": trainable}
        words = ("launch", f"{on_node.SHIPPED}:{identity}", *(["--offline"] if offline else []), "--json")
        sending.send(jobs, Job(job_id, words, metadata), contents)
        mirror, text = shipping.mirror(shipment), shipment.text()
        sending.note(sending.Sent(sweep_id=job_id, mirror=mirror, content=identity, text=text, files=shipment.files))
    follow_or_leave(jobs, job_id, detach, as_json)


def _notices(sweep: LoadedSweep, shipment: Shipment) -> list[str]:
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
