"""What `qsweep submit` has sent with a sweep: noted on this machine, so that a resumed sweep gets it again.

The nodes keep what was sent, but a node that is new, or whose cache was emptied, has none of it. It lies there under a
hash of its content, so only the same content is of use: files that have changed since are not sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.devices import cache
from cluster.errors import SubmissionFailed
from cluster.submission import package
from sweeps.config import shipping
from sweeps.record.folder import write_whole
from sweeps.record.private_files import make_folder
from trainables.inputs import json_text

FOLDER = "sent"
"""Of the notes, in this machine's cache folder: one file for each sweep."""


@dataclass(frozen=True)
class Sent:
    """What was sent with a sweep."""

    sweep_id: str
    name: str
    mirror: str | None
    """Where the sweep's mirror is, unless its name was taken there."""
    content: str
    """Hash of all that follows, by which the nodes know it."""
    text: str
    """The sweep file."""
    files: Mapping[str, str]
    """Path beside the sweep file -> the file or folder here."""

    @property
    def places(self) -> dict[str, Path]:
        """As `files`."""
        return {name: Path(place) for name, place in self.files.items()}


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
    with suppress(OSError):
        make_folder(cache() / FOLDER)
        write_whole(cache() / FOLDER / f"{sent.sweep_id}.json", json.dumps(asdict(sent)).encode())


def again(sweep: str) -> Again:
    """What is sent with a sweep that is resumed.

    Args:
        sweep: its id, its name or its mirror; of several, the one that was submitted last is meant.
    """
    sent = _noted(sweep)
    if sent is None:
        needed = "a data file or local model that it reads must be on the nodes, at the path that it names"
        return Again({}, (f"no files travel: this machine has sent none with {sweep}; {needed}",))
    where, names = f"~/.cache/qlora-sweeps/submitted/{sent.content}", ", ".join(sent.files.values())
    why, contents = _unchanged(sent)
    if why is not None:
        way_out = f"nodes that lack them in {where} cannot go on; put the same files back here and resume again"
        return Again({}, (f"{names}: sent with the sweep, and not sent again: {why}: {way_out}",))
    megabytes = sum(shipping.size(place) for place in sent.places.values()) / 1e6
    return Again(contents, (f"{names} ({megabytes:.1f} MB) travel again, for nodes that lack them in {where}",))


def _unchanged(sent: Sent) -> tuple[str | None, dict[str, bytes | Path]]:
    """Why what was sent cannot be sent again, or None; and what travels."""
    gone = [str(place) for place in sent.places.values() if not place.exists()]
    if gone:
        return f"{' and '.join(gone)} {'is' if len(gone) == 1 else 'are'} not here any more", {}
    try:
        identity, contents = package.sweep_files(sent.text, sent.places)
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}", {}
    return (None, contents) if identity == sent.content else ("they have changed here since", {})


def _noted(sweep: str) -> Sent | None:
    wanted = sweep.rstrip("/")
    try:
        files = sorted((cache() / FOLDER).glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    except OSError:
        return None
    found = [sent for sent in map(_read, files) if sent is not None]
    by_id = [sent for sent in found if sent.sweep_id == wanted]
    return next((sent for sent in by_id or found if wanted in (sent.sweep_id, sent.name, sent.mirror)), None)


def _read(file: Path) -> Sent | None:
    try:
        raw = json_text.parse(file.read_bytes())
        sent = Sent(**raw)
        return sent if isinstance(sent.files, dict) and isinstance(sent.text, str) else None
    except (OSError, ValueError, TypeError):
        return None
