"""What `qsweep submit` has sent with a sweep: noted on this machine, so that a resumed sweep gets it again.

The nodes keep what was sent, but a node that is new, or whose cache was emptied, has none of it. It lies there under a
hash of its content, so only the same content is of use: files that have changed since are not sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.devices import cache
from cluster.errors import SubmissionFailed
from cluster.submission import package
from sweeps.config import shipping
from sweeps.config.uris import is_object_store
from sweeps.record.private_files import make_folder
from sweeps.record.whole_files import write_whole
from trainables.specs import Spec

FOLDER = "sent"
"""Of the notes, in this machine's cache folder: one file for each sweep."""


class Sent(Spec):
    """What was sent with a sweep."""

    sweep_id: str
    name: str
    mirror: str | None
    """Where the sweep's mirror is, unless its name was taken there."""
    content: str
    """Hash of all that follows, by which the nodes know it."""
    text: str
    """The sweep file."""
    files: dict[str, Path]
    """Path beside the sweep file -> the file or folder here."""


@dataclass(frozen=True)
class Again:
    """What travels with a sweep that is resumed."""

    contents: Mapping[str, bytes | Path]
    """Path in the package -> content or file here."""
    notices: tuple[str, ...]
    """What people should know of it."""


@contextmanager
def noting(sent: Sent) -> Iterator[None]:
    """Notes the files that the block sends, also where its answer is lost; not where the cluster refuses them.

    Without the note, a resumed sweep needs what the nodes have kept.
    """
    try:
        yield
    except SubmissionFailed:
        raise  # Its id may be another sweep's, whose note stays.
    except BaseException:
        _note(sent)
        raise
    _note(sent)


def _note(sent: Sent) -> None:
    if not sent.files:
        return
    with suppress(OSError, ValueError):  # the latter of a path that is not UTF-8
        make_folder(cache() / FOLDER)
        write_whole(cache() / FOLDER / f"{sent.sweep_id}.json", sent.model_dump_json().encode())


def again(sweep: str) -> Again:
    """What is sent with a sweep that is resumed.

    Args:
        sweep: its id, its mirror, its name or its folder; of several, the one that was submitted last is meant.
    """
    noted = _noted(sweep)
    if not noted:
        needed = "a data file or local model, if it reads any, must be on the nodes, at the path that it names"
        # A folder may have another name than its sweep.
        way_out = "; if they were sent from here, name the sweep by its id" if "/" in sweep else ""
        return Again({}, (f"no files travel: this machine has sent none with {sweep}; {needed}{way_out}",))
    sent = noted[0]
    if all(other.content == sent.content for other in noted):
        return _sent_again(sent)
    several = (
        f"{len(noted)} sweeps that this machine has submitted may be meant by {sweep}, and they have other files: "
        f"those of {sent.sweep_id}, the last one, are taken; for another, name the sweep by its id"
    )
    found = _sent_again(sent)
    return Again(found.contents, (several, *found.notices))


def _sent_again(sent: Sent) -> Again:
    where, names = f"~/.cache/qlora-sweeps/submitted/{sent.content}", ", ".join(map(str, sent.files.values()))
    why, contents = _unchanged(sent)
    if why is not None:
        way_out = f"nodes that lack them in {where} cannot go on; put the same files back here and resume again"
        return Again({}, (f"{names}: sent with the sweep, and not sent again: {why}: {way_out}",))
    megabytes = sum(shipping.size(place) for place in sent.files.values()) / 1e6
    return Again(contents, (f"{names} ({megabytes:.1f} MB) travel again, for nodes that lack them in {where}",))


def _unchanged(sent: Sent) -> tuple[str | None, dict[str, bytes | Path]]:
    """Why what was sent cannot be sent again, or None; and what travels."""
    gone = [str(place) for place in sent.files.values() if not place.exists()]
    if gone:
        return f"{' and '.join(gone)} {'is' if len(gone) == 1 else 'are'} not here any more", {}
    try:
        identity, contents = package.sweep_files(sent.text, sent.files)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}", {}
    return (None, contents) if identity == sent.content else ("they have changed here since", {})


def _noted(sweep: str) -> list[Sent]:
    """What was sent with the sweeps that may be meant, the last one first: those that fit `sweep` best."""
    wanted = sweep.rstrip("/")
    try:
        files = sorted((cache() / FOLDER).glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    except OSError:
        return []
    found = [sent for sent in map(_read, files) if sent is not None]
    ways = [
        [sent for sent in found if sent.sweep_id == wanted],
        [sent for sent in found if sent.mirror == wanted],
        [sent for sent in found if sent.name == wanted],
    ]
    if "/" in wanted:
        folder = wanted.rpartition("/")[2]
        may_be = [sent for sent in found if sent.mirror is None or not is_object_store(wanted)]
        # The second sweep of a name has the folder NAME-2; its note has the name.
        for name in (folder, re.sub(r"-\d+$", "", folder)):
            ways.append([sent for sent in may_be if sent.name == name])
    return next(filter(None, ways), [])


def _read(file: Path) -> Sent | None:
    try:
        return Sent.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        return None
