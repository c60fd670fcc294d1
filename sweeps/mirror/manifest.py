"""What a mirror holds: the manifest, and an object for each trial that says where the trial's files are."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, Field

from trainables.specs import Spec

MANIFEST = "manifest.json"
FORMAT = 2
"""Format of the manifest. A version raises it that cannot read the manifest of the one before, or the reverse."""


def _is_below(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path != "/".join(parts) or {".", "..", "/"} & set(parts):
        raise ValueError("must be a path below the sweep's folder")
    return path


PathBelow = Annotated[str, AfterValidator(_is_below)]


class Stored(Spec):
    """A file, or a part of one, in an object of the store."""

    object: PathBelow
    """The object's name below the mirror."""
    size: int
    """In bytes."""
    sha256: str
    mtime_ns: int = 0
    """When the file was last written, on the clock of the machine that wrote it. Size and time tell a changed file."""


class TrialFiles(Spec):
    """What the mirror holds of one trial: an object of its own, so that the manifest stays short."""

    files: dict[PathBelow, Stored]
    """Path below the trial's folder -> where it is."""


class Manifest(Spec):
    """What the mirror holds. The folder is whole as the manifest tells it, whatever else lies in the store."""

    format: int = FORMAT
    token: int
    """`Lease.token` of the driver that wrote the manifest."""
    serial: int = 0
    """Grows with each manifest of that driver."""
    sweep_id: str
    files: dict[PathBelow, Stored] = Field(default_factory=dict)
    """The small files of the folder: name -> where it is."""
    log: Annotated[tuple[Stored, ...], Field(strict=False)] = ()
    """The event log, part after part."""
    trials: dict[PathBelow, PathBelow] = Field(default_factory=dict)
    """Trial key -> the object that holds its `TrialFiles`."""

    @property
    def log_bytes(self) -> int:
        """How much of the event log the mirror holds."""
        return sum(part.size for part in self.log)
