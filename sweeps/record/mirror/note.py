"""What a sweep's folder knows of its mirror: where it is, and as which driver this folder wrote it last."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from sweeps.record.folder import SweepFolder, writing
from sweeps.record.mirror.contents import NOTE
from sweeps.record.mirror.lease import Lease
from sweeps.record.whole_files import write_whole
from trainables.specs import Spec

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Note(Spec):
    """The last driver of this folder."""

    holder: str = ""
    """See `Lease.holder`."""
    token: int = 0
    """See `Lease.token`."""
    boot: str = ""
    """The machine, since it was last started."""

    @property
    def dead_holder(self) -> str | None:
        """The holder that nobody is any more, for whoever has the lock of the folder: it was a process here."""
        return self.holder if self.holder and self.boot == _boot() else None


def noted(folder: SweepFolder) -> Note:
    """The note in a folder; an empty one where there is none that can be read."""
    try:
        return Note.model_validate_json((folder.path / NOTE).read_bytes())
    except (OSError, ValidationError):
        return Note()


def write(folder: SweepFolder, lease: Lease) -> None:
    """Notes that a driver of this folder holds the lease. Raises `StorageError` when the folder cannot be written."""
    note = Note(holder=lease.holder, token=lease.token, boot=_boot())
    with writing(folder.path / NOTE):
        write_whole(folder.path / NOTE, note.model_dump_json().encode())


def mirror_of(folder: SweepFolder) -> str | None:
    """Where the mirror of a sweep is; None for a sweep without one."""
    try:
        found = folder.document().get("mirror")
    except (OSError, ValueError):
        return None
    return found if isinstance(found, str) and found else None


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
