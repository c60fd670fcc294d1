"""Lists the files of a sweep's folder that are mirrored, and the trials that have changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sweeps.mirror import timeouts
from sweeps.mirror.store import Stored
from sweeps.record.folder import DRIVER_LOG, MIRROR_NOTE, REPORT

_NOT_MIRRORED = ("events.jsonl", MIRROR_NOTE, REPORT, DRIVER_LOG)
"""The log is sent in parts, the note and the drivers' output are this machine's, and the report is made again."""


@dataclass(frozen=True)
class FileState:
    """Size and time of a file in the folder. A changed file differs in one of them, as rsync assumes."""

    size: int
    """In bytes."""
    mtime_ns: int

    def is_in(self, stored: Stored | None) -> bool:
        """Tells whether an object holds this file."""
        return stored is not None and (stored.size, stored.mtime_ns) == (self.size, self.mtime_ns)


def small_files(folder: Path) -> dict[str, FileState]:
    """Returns the files of a sweep's folder that are mirrored whole: all but `_NOT_MIRRORED`, locks and drafts."""
    found = {}
    with os.scandir(folder) as entries:
        for each in entries:
            if each.is_file() and not each.name.startswith(".") and not each.name.endswith(".lock"):
                state = Path(each.path).stat()
                found[each.name] = FileState(state.st_size, state.st_mtime_ns)
    return {name: seen for name, seen in sorted(found.items()) if name not in _NOT_MIRRORED}


def trial_files(folder: Path) -> dict[str, FileState]:
    """Returns path below a trial's folder -> size and time of the file. Leaves out drafts, and files that vanish."""
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place) / name for name in names if not name.startswith(".")):
            try:
                state = path.stat()
            except FileNotFoundError:  # gone meanwhile, or a link that leads nowhere
                continue
            found[path.relative_to(folder).as_posix()] = FileState(state.st_size, state.st_mtime_ns)
    return found


class TrialFolders:
    """Finds the trials whose folders have changed. An unchanged trial costs one look at its folder's time.

    The files that a trial keeps appear and vanish whole, in a folder of their own. Code that changes them later, such
    as the scores of a finalist, gives the trial's folder a new time.
    """

    def __init__(self, trials: Path) -> None:
        """All folders below `trials` are new at first."""
        self._trials = trials
        self._times: dict[str, int] = {}

    def changed(self) -> dict[str, int]:
        """Returns trial key -> time of its folder in nanoseconds, for trials that changed after they were `settled`."""
        try:
            with os.scandir(self._trials) as entries:
                now = {each.name: each.stat().st_mtime_ns for each in entries if not each.name.startswith(".")}
        except FileNotFoundError:
            return {}
        return {key: at for key, at in now.items() if self._times.get(key) != at}

    def settled(self, key: str, at: int, looked: float) -> None:
        """Notes that a trial's folder was handled as of its time `at`; it was read at `looked`, by `time.time`."""
        if looked - at / 1e9 > timeouts.SETTLED_SECONDS:
            self._times[key] = at
