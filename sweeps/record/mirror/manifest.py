"""What a mirror holds, and what has to be sent so that it holds what the folder holds. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from trainables.specs import Spec

LARGEST_MERGED_BYTES = 1 << 20
"""A part of the event log that is larger is not sent again."""


def _is_below(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path != "/".join(parts) or {".", "..", "/"} & set(parts):
        raise ValueError("must be a path below the sweep's folder")
    return path


PathBelow = Annotated[str, AfterValidator(_is_below)]


@dataclass(frozen=True)
class Seen:
    """A file in the folder, by what tells whether it was changed (as rsync does it)."""

    size: int
    """In bytes."""
    mtime_ns: int


class Stored(Spec):
    """A file, or a part of one, in an object of the store."""

    object: PathBelow
    """The object's name below the mirror."""
    size: int
    """In bytes."""
    sha256: str
    mtime_ns: int = 0
    """When the file was last written, on the clock of the machine that wrote it."""

    def is_of(self, seen: Seen) -> bool:
        """Whether the object holds this file."""
        return (self.size, self.mtime_ns) == (seen.size, seen.mtime_ns)


class TrialFiles(Spec):
    """What the mirror holds of one trial: an object of its own, so that the manifest stays short."""

    files: dict[PathBelow, Stored]
    """Path below the trial's folder -> where it is."""


class Manifest(Spec):
    """What the mirror holds. The folder is whole as the manifest tells it, whatever else lies in the store."""

    format: Literal[1] = 1
    token: int
    """Of the driver that wrote it; see `Lease.token`."""
    serial: int
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


def parts_that_stay(parts: Sequence[Stored], length: int) -> tuple[Stored, ...]:
    """The parts of the event log that stay when it is `length` bytes long; what follows them is sent as one new part.

    Small parts are sent again with what is new, so that there are few: each part that stays is at least twice as large
    as what follows it, or larger than `LARGEST_MERGED_BYTES`.
    """
    stay = list(parts)
    new = length - sum(part.size for part in stay)
    while stay and stay[-1].size <= min(2 * new, LARGEST_MERGED_BYTES):
        new += stay.pop().size
    return tuple(stay)


def to_send(stored: Mapping[str, Stored], seen: Mapping[str, Seen]) -> list[str]:
    """The files that the mirror lacks, or that were changed since."""
    return [path for path, now in seen.items() if path not in stored or not stored[path].is_of(now)]


def unused(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """The objects that nothing names any more."""
    kept = set(after)
    return [each for each in dict.fromkeys(before) if each not in kept]


def objects(manifest: Manifest, trials: Mapping[str, TrialFiles]) -> list[str]:
    """The objects that a manifest names for its small files and its log, and for some of its trials."""
    of_trials = [each.object for trial in trials.values() for each in trial.files.values()]
    indexes = [manifest.trials[key] for key in trials if key in manifest.trials]
    return [*(each.object for each in (*manifest.files.values(), *manifest.log)), *indexes, *of_trials]
