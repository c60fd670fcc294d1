"""Checks, sends and notes the files that travel with a job on a cluster, so that a resumed sweep gets them again.

The nodes keep sent files under a hash of their content. A new node, or a node whose cache was emptied, has none. Only
the same content is of use to a resumed sweep, so files that have changed since are not sent again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cluster.devices import cache
from cluster.errors import ConnectionFailed
from cluster.submission import package
from cluster.submission.jobs import check_address
from sweeps.cli.shared import as_words, say
from sweeps.config import load, shipping
from sweeps.errors import ConfigError
from sweeps.record.whole_files import make_folder, write_whole
from trainables.specs import Spec

if TYPE_CHECKING:
    from cluster.submission.jobs import Job, Jobs
    from sweeps.config.load import LoadedSweep
    from sweeps.config.shipping import Shipment

FOLDER = "sent"
"""Folder of the notes in this machine's cache, one file for each sweep."""
Contents = Mapping[str, bytes | Path]
"""Path in the package -> content, or file on this machine."""


class Sent(Spec):
    """The files that were sent with a sweep."""

    sweep_id: str
    mirror: str | None
    """URI of the sweep's mirror, unless the name was taken on the object store."""
    content: str
    """Hash of `text` and `files`, under which the nodes keep them."""
    text: str
    """Text of the sweep file."""
    files: dict[str, Path]
    """Path beside the sweep file -> file or folder on this machine."""


def check_shipment(
    file: str, changes: list[str] | None, address: str | None, no_files: bool
) -> tuple[LoadedSweep, Shipment]:
    """Returns a checked sweep and its shipment, and sends nothing. Raises ConfigError or SubmissionFailed."""
    if not address:
        raise ConfigError(["--address: is needed: the cluster's dashboard, such as http://HOST:8265"])
    check_address(address)
    words, here = as_words(changes), Path.cwd()
    given = load.read_sweep_file(file, words, here)[0].get("cluster")
    if not isinstance(given, dict) or "profile" not in given:
        words.append("cluster.profile=attached")
    shipment = shipping.pack(load.read_sweep_file(file, words, here)[0], (here, Path.home()), not no_files)
    sweep = load.load(file, words, here, shipment.there)
    wrong = shipping.refusals(sweep.config)
    if wrong:
        raise ConfigError(wrong)
    return sweep, shipment


def send(jobs: Jobs, job: Job, contents: Contents) -> None:
    """Submits a sweep's job, and says so. Ends the command if it is unknown whether the cluster has the job."""
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
    """Warns if the cluster has another version of Ray than this machine."""
    if jobs.other_version is not None:
        say(f"warning: the cluster has Ray {jobs.other_version}, which this project is not tested with")


def note(sent: Sent) -> None:
    """Notes the files that were sent. Without the note, a resumed sweep needs the files that the nodes have kept."""
    if not sent.files:
        return
    with suppress(OSError, ValueError):  # ValueError: a path is not UTF-8
        make_folder(cache() / FOLDER)
        write_whole(cache() / FOLDER / f"{sent.sweep_id}.json", sent.model_dump_json().encode())


def files_to_resend(sweep: str) -> tuple[Contents, str]:
    """Returns the files to send with a resumed sweep, named by id or mirror, and a line for people about them."""
    sent = _noted(sweep.rstrip("/"))
    if sent is None:
        needed = "a data file or local model, if it reads any, must be on the nodes, at the path that it names"
        way_out = "if they were sent from here, name the sweep by its id"
        return {}, f"no files travel: this machine has sent none with {sweep}; {needed}; {way_out}"
    where, names = f"~/.cache/qlora-sweeps/submitted/{sent.content}", ", ".join(map(str, sent.files.values()))
    try:
        identity, contents = package.sweep_files(sent.text, sent.files)
    except OSError as error:
        why = f"{error.filename} cannot be read: {error.strerror}"
    else:
        if identity == sent.content:
            megabytes = sum(shipping.size(place) for place in sent.files.values()) / 1e6
            told = f"{names} ({megabytes:.1f} MB), sent with {sent.sweep_id}, travel again, for nodes that lack them"
            return contents, f"{told} in {where}"
        why = "they have changed here since"
    told = (
        f"{names}: sent with {sent.sweep_id}, and not sent again: {why}: nodes that lack them in {where} cannot go on"
    )
    return {}, f"{told}; put the same files back here and resume again"


def _noted(wanted: str) -> Sent | None:
    """Returns the note on the sweep of this id, else the latest note on a sweep of this mirror."""
    found = []
    for file in (cache() / FOLDER).glob("*.json"):
        with suppress(OSError, ValueError):
            found.append((file.stat().st_mtime, Sent.model_validate_json(file.read_bytes())))
    fitting = [(sent.sweep_id == wanted, at, sent) for at, sent in found if wanted in (sent.sweep_id, sent.mirror)]
    return max(fitting, key=lambda each: each[:2])[2] if fitting else None
