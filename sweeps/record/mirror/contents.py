"""What a sweep's folder holds for its mirror, and what of it has changed. Idle, it costs a look at the live trials.

A trial's snapshots and adapters appear and vanish whole, and are never written again. So that one that is to be sent is
not gone before it is read, it is linked into a folder of its own (a hard link: no copy).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sweeps.errors import StorageError
from sweeps.record.events import Event
from sweeps.record.folder import REPORT, SweepFolder
from sweeps.record.journal import Journal
from sweeps.record.mirror.manifest import Seen, Stored, TrialFiles, to_send
from sweeps.record.private_files import make_folder
from sweeps.record.sweep_record import SweepRecord

STAGE = ".mirror"
NOTE = "mirror.json"
TRIES = 50
SETTLED_NS = 10**9
"""A trial's folder that was changed less long ago is looked at again: its clock does not tell two changes in a tick."""
RECENT_SECONDS = 10.0
"""So long after its last event a trial's folder is watched: what the event makes superfluous is removed after it."""


@dataclass(frozen=True)
class Taken:
    """A moment of the folder that a driver could have died in: nothing that its log names is missing."""

    log_bytes: int
    """Length of the event log."""
    files: Mapping[str, tuple[Seen, bytes | None]]
    """The small files: name -> what it is known by, and its content where the mirror lacks it."""
    trials: Mapping[str, Mapping[str, Seen]]
    """Key of each trial that was looked at -> path below the trial's folder -> what the file is known by."""


class Contents:
    """Looks at a sweep's folder again and again."""

    def __init__(self, folder: SweepFolder, journal: Journal) -> None:
        """Everything is new at first."""
        self._folder = folder
        self._journal = journal
        self.stage = folder.path / STAGE
        shutil.rmtree(self.stage, ignore_errors=True)
        self._live = {key for key, trial in journal.record.trials.items() if not trial.state.is_final}
        self._recent: dict[str, float] = {}
        """Trials that are not live -> until when their folders are watched."""
        self._times: dict[str, int] = {}
        """Trial -> the time of its folder when it was last looked at."""
        self.unsent: set[str] = set()
        """Trials that have files which the mirror lacks."""
        self.look_at_all()

    def look_at_all(self) -> None:
        """Everything is new once more."""
        self._again({path.name for path in self._folder.trials()} | set(self._journal.record.trials))

    def heard(self, event: Event, record: SweepRecord) -> None:
        """An event was written; called in the driver's threads."""
        key = getattr(event, "trial_key", None)
        if key is None:
            return
        trial = record.trials.get(key)
        if trial is not None and not trial.state.is_final:
            self._live.add(key)
        else:
            self._live.discard(key)
        self._watch(key)

    def _watch(self, key: str) -> None:
        self._recent[key] = time.monotonic() + RECENT_SECONDS

    def take(self, files: Mapping[str, Stored], known: Mapping[str, TrialFiles]) -> Taken:
        """The folder as it stands.

        Args:
            files: the small files that the mirror holds.
            known: what it holds of each trial; files that it lacks are linked into `stage`.

        Raises:
            StorageError: events come faster than the folder can be looked at.
            OSError: the folder is gone or cannot be read.
        """
        trials: dict[str, Mapping[str, Seen]] = {}
        for _ in range(TRIES):
            # Before the log: what MLflow has acknowledged is then in it.
            small = self._files(files)
            length = self._journal.log.length
            seen = {key: self._trial(key, known) for key in self._candidates()}
            trials |= {key: found for key, found in seen.items() if found is not None}
            # Of a trial that changed meanwhile, `stage` may no longer hold what was seen of it before.
            if None not in seen.values() and self._journal.log.length == length:
                return Taken(length, small, trials)
        self._again(trials)
        raise StorageError(f"{self._folder.path}: changes faster than its mirror can be kept")

    def missed(self, taken: Taken) -> None:
        """What was taken did not reach the store: it is looked at again."""
        self._again(taken.trials)

    def arrived(self, taken: Taken) -> None:
        """The mirror holds what was taken."""
        for key in taken.trials:
            self.unsent.discard(key)
            shutil.rmtree(self.stage / key, ignore_errors=True)

    def close(self) -> None:
        """Removes `stage`."""
        shutil.rmtree(self.stage, ignore_errors=True)

    def _again(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._times.pop(key, None)
            self._watch(key)

    def _files(self, known: Mapping[str, Stored]) -> dict[str, tuple[Seen, bytes | None]]:
        files: dict[str, tuple[Seen, bytes | None]] = {}
        for name in small_files(self._folder.path):
            with suppress(FileNotFoundError), (self._folder.path / name).open("rb") as file:
                state = os.fstat(file.fileno())
                seen = Seen(state.st_size, state.st_mtime_ns)
                files[name] = seen, None if name in known and known[name].is_of(seen) else file.read()
        return files

    def _candidates(self) -> Iterator[str]:
        """The trials whose folders may have changed since they were last looked at."""
        now, now_ns = time.monotonic(), time.time_ns()
        recent = list(self._recent.items())
        trials = str(self._folder.path / "trials")
        for key in {*self._live.copy(), *(key for key, _ in recent)}:
            try:
                # Not a `Path`: thousands of trials may be parked.
                at = os.stat(f"{trials}/{key}").st_mtime_ns  # noqa: PTH116
            except FileNotFoundError:
                at = 0
            if self._times.get(key) != at or now_ns - at < SETTLED_NS:
                self._times[key] = at
                yield key
        for key, until in recent:
            if until < now and key in self._times and self._recent.get(key) == until:
                del self._recent[key]

    def _trial(self, key: str, known: Mapping[str, TrialFiles]) -> dict[str, Seen] | None:
        """The files of a trial, linked as far as they are new; None when they changed meanwhile: it is seen again."""
        folder = self._folder.trial(key)
        try:
            found = trial_files(folder)
            stored = known[key].files if key in known else {}
            lacking = to_send(stored, found)
            if found.keys() != stored.keys() or lacking:
                self.unsent.add(key)
            # What the folder has no longer must not stay on disk because the store takes nothing.
            for path in trial_files(self.stage / key).keys() - set(lacking):
                (self.stage / key / path).unlink(missing_ok=True)
            for path in lacking:
                link(folder / path, self.stage / key / path, found[path], self._folder.path)
            if trial_files(folder) == found:
                return found
        except FileNotFoundError:
            if not self._folder.path.exists():
                raise
        self._again([key])
        return None


def small_files(folder: Path) -> list[str]:
    """The files of a sweep's folder that are mirrored whole: all but log, locks, drafts, note and page."""
    with os.scandir(folder) as entries:
        return sorted(each.name for each in entries if each.is_file() and _is_mirrored(each.name))


def _is_mirrored(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(".lock") and name not in ("events.jsonl", NOTE, REPORT)


def trial_files(folder: Path) -> dict[str, Seen]:
    """The files of a trial: path below its folder -> what it is known by.

    Drafts are left out, and links that lead nowhere, which somebody has put there.
    """
    found: dict[str, Seen] = {}
    for place, folders, names in os.walk(folder, onerror=_fail) if folder.is_dir() else ():
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place) / name for name in names if not name.startswith(".")):
            try:
                state = path.stat()
            except FileNotFoundError:
                if path.is_symlink():
                    continue
                raise
            found[path.relative_to(folder).as_posix()] = Seen(state.st_size, state.st_mtime_ns)
    return found


def _fail(error: OSError) -> None:
    raise error


def link(source: Path, target: Path, seen: Seen, below: Path) -> None:
    """Makes a second name of a file that does not change any more; a copy where the disk knows no such names.

    Folders are made for it `below` that of the sweep, which does not come back where somebody has moved or deleted it.
    """
    with suppress(FileNotFoundError):
        state = target.stat()
        if Seen(state.st_size, state.st_mtime_ns) == seen:
            return
        target.unlink()
    make_folder(target.parent, below)
    try:
        # Of a symbolic link the file: a relative one leads elsewhere from `target`.
        target.hardlink_to(source.resolve())
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)
