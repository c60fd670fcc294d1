"""A sweep's folder on disk: its resolved configuration, its events, and one folder per trial.

NAME/
├── config.json           the folder's format, and the resolved configuration; the folder is a sweep once it is there
├── events.jsonl          everything that happened, one event per line
├── base_eval_rows.json   what the base without an adapter evaluates to, row by row
├── base_samples.jsonl    what it answers, where answers are scored
├── driver.log            what a driver printed that was started from Python
├── report.html           the page that qsweep report made of it last; the folder is whole without it
├── requests/             what other processes have asked of the driver, and it has not answered yet
├── mirror.json           as which driver this folder wrote its mirror on an object store last, if it has one
├── tracking.json         which tracking server has acknowledged the events, and how far
└── trials/TRIAL_KEY/     snapshot-STEP (to go on from), best-STEP (adapter/, eval_rows.json and, of answers that were
                          scored, samples.jsonl), and rows-STEP of each report (eval_rows.json)
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Literal

from filelock import Timeout

from sweeps.errors import StorageError
from sweeps.record import samples
from sweeps.record.events import Event, from_line, to_line
from sweeps.record.whole_files import (
    FOLDER_MODE,
    entries,
    file_lock,
    open_file,
    remove_folder,
    write_folder,
    write_whole,
)
from trainables.inputs import json_text, paths

Kind = Literal["snapshot", "best", "rows"]
FORMAT = 1
"""Format of a sweep's folder and event log. A version that cannot read what the one before wrote raises it."""
REPORT = "report.html"
MIRROR_NOTE = "mirror.json"
LOCK_SECONDS = 0.5
"""How long a driver waits for its lock. `is_driven` in another process holds it for a moment."""


class SweepFolder:
    """The paths of one sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.events = path / "events.jsonl"
        self.tracking = path / "tracking.json"
        self.base_rows = path / "base_eval_rows.json"
        self.base_samples = path / samples.OF_BASE
        self.report = path / REPORT
        self.requests = path / "requests"
        self.in_use: frozenset[Path] = frozenset()
        """Best adapters that are being sent to the sweep's mirror: `prune_adapters` leaves them."""

    def document(self) -> dict[str, Any]:
        """What config.json holds, as `described` tells it.

        Raises:
            StorageError: another version of qsweep wrote it, in another format.
        """
        document = self.described()
        refuse_other_format(document, str(self.config))
        return document

    def described(self) -> dict[str, Any]:
        """What config.json holds, in whatever format: `sweep_id` is there, and `config` is a mapping.

        Raises:
            OSError: it cannot be read; the folder is no sweep's.
            ValueError: it holds something else.
        """
        document: dict[str, Any] = json_text.parse(self.config.read_bytes())
        if not isinstance(document, dict) or not isinstance(document.get("config"), dict) or "sweep_id" not in document:
            raise ValueError("it has no sweep_id, or its config is no mapping")
        return document

    def mirror(self) -> str | None:
        """Where the sweep's mirror on an object store is; None for a sweep without one."""
        with suppress(OSError, ValueError):
            found = self.described().get("mirror")
            return found if isinstance(found, str) and found else None
        return None

    def holds(self, sweep_id: object) -> bool:
        """Whether the sweep of this id lies here."""
        with suppress(OSError, ValueError):
            return bool(self.described()["sweep_id"] == sweep_id)
        return False

    def trial(self, trial_key: str) -> Path:
        """Where a trial keeps its snapshot and its best adapter."""
        return self.path / "trials" / trial_key

    def trials(self) -> list[Path]:
        """The folders of all trials that have kept something."""
        return [path for path in entries(self.path / "trials") if paths.is_folder(path)]

    def clean(self) -> None:
        """Removes the drafts of processes that were killed. No other process may be writing."""
        for trial in self.trials():
            for draft in (path for path in entries(trial) if path.name.startswith(".")):
                shutil.rmtree(draft, ignore_errors=True)

    def keep(self, trial_key: str, kind: Kind, step: int, files: Mapping[str, bytes]) -> Path:
        """Writes the trial's latest snapshot, best adapter or evaluation, and returns its folder."""
        # Not the sweep's own folder: one that was deleted does not come back half.
        self.trial(trial_key).parent.mkdir(FOLDER_MODE, exist_ok=True)
        path = self.kept(trial_key, kind, step)
        write_folder(path, files)
        return path

    def kept(self, trial_key: str, kind: Kind, step: int) -> Path:
        """The folder that `keep` writes."""
        return self.trial(trial_key) / f"{kind}-{step:06d}"

    def prune_adapters(self, trial_key: str, kept: Path) -> None:
        """Removes the best adapters that `keep` wrote before `kept`."""
        for path in self.all(trial_key, "best"):
            if _step(path) < _step(kept) and path not in self.in_use:
                remove_folder(path)

    def drop_snapshots(self, trial_key: str, but: int = 0) -> None:
        """Removes the snapshots that `keep` wrote, the latest `but` of them excepted."""
        for path in self.all(trial_key, "snapshot")[but:]:
            remove_folder(path)

    def all(self, trial_key: str, kind: Kind, look: Callable[[Path], list[Path]] = entries) -> list[Path]:
        """The folders that `keep` wrote and that are still there, the latest first; `look` may be `listed`, too."""
        named = [path for path in look(self.trial(trial_key)) if path.name.startswith(f"{kind}-")]
        return sorted((path for path in named if _step(path) >= 0), key=_step, reverse=True)

    def request_files(self) -> list[Path]:
        """The files of requests, the first sent first. A draft that is not whole yet begins with a dot."""
        return sorted(path for path in entries(self.requests) if _is_request(path.name))


def stamp() -> dict[str, Any]:
    """What config.json holds of the version that writes the folder: its format, and qsweep's own version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"format": FORMAT, "qsweep": version("qlora-sweeps")}
    except PackageNotFoundError:
        return {"format": FORMAT}


def refuse_other_format(document: Mapping[str, Any], where: str) -> None:
    """Raises `StorageError`, which names the version that reads it, for a config.json of another format."""
    if document.get("format") != FORMAT:
        found = document.get("format", "none")
        writer = f"qsweep {document['qsweep']}" if "qsweep" in document else "the version that wrote it"
        told = f"has format {found}, and this version reads format {FORMAT} alone: go on with {writer}"
        raise StorageError(f"{where}: {told}")


def _step(path: Path) -> int:
    """The step of what `keep` wrote; -1 of anything else."""
    digits = path.name.rpartition("-")[2]
    # As a number: from a million steps on, names are longer, and sort before those of fewer steps.
    return int(digits) if digits.isdecimal() else -1


def _is_request(name: str) -> bool:
    # A name that is not UTF-8 could not be written into the event log as the request's id.
    is_text = name.encode(errors="replace").decode() == name
    return is_text and name.endswith(".json") and name[0] != "."


Claim = Callable[[str], Mapping[str, Any] | None]


def create(storage: Path, name: str, document: Mapping[str, Any], claim: Claim = lambda _name: {}) -> SweepFolder:
    """Makes storage/name, or name-2, name-3, ... when that is taken, and writes config.json.

    Making a folder is atomic, so two launches at once get two folders.

    Args:
        document: what config.json holds.
        claim: takes the folder's name elsewhere too; what config.json holds of that, or None where it is taken.

    Raises:
        StorageError: the storage cannot be written.
    """
    try:
        storage.mkdir(parents=True, exist_ok=True)
        path, claimed = _new(storage, name, claim)
        folder = SweepFolder(path)
        write_whole(folder.config, json.dumps({**document, **claimed, "dir": str(path)}, indent=2).encode())
    except StorageError:
        raise
    except OSError as error:
        problem = f"storage: {storage} cannot be written: {error.strerror}; choose another: storage=DIR"
        raise StorageError(problem) from error
    return folder


def _new(storage: Path, name: str, claim: Claim) -> tuple[Path, Mapping[str, Any]]:
    for number in count(1):
        path = storage / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            path.mkdir(FOLDER_MODE)
            claimed: Mapping[str, Any] | None = None
            try:
                claimed = claim(path.name)
            finally:
                if claimed is None:
                    path.rmdir()
            if claimed is not None:
                return path, claimed
    raise AssertionError("names are endless")


@contextmanager
def locked(folder: SweepFolder) -> Iterator[None]:
    """Locks the sweep's folder against a second driver. The lock ends with the process, even when it is killed.

    Raises:
        StorageError: another driver holds it.
    """
    try:
        lock = file_lock(folder.path / "driver.lock", LOCK_SECONDS)
        lock.acquire()
    except Timeout:
        problem = f"{folder.path}: another process drives this sweep: wait until it ends, or stop it"
        raise StorageError(problem) from None
    except OSError as error:
        raise StorageError(f"{folder.path}: cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # the end of the process frees it
            lock.release()


def is_driven(folder: SweepFolder) -> bool:
    """Whether a process drives the sweep now."""
    try:
        file = (folder.path / "driver.lock").open("rb")
    except OSError:
        return False
    with file:
        try:
            # Shared, which filelock's locks are not, and let go at once: two that look at the same time do not take
            # each other for the driver.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError)  # else nobody can lock it there
        return False


class EventLog:
    """The append-only file of events."""

    def __init__(self, path: Path, read: Callable[[Event, int], None] = lambda _event, _offset: None) -> None:
        """Opens the file. Passes each event that is there to `read`, with the offset after it."""
        self._path = path
        try:
            # Unbuffered: what a full disk refuses must not be tried again when the file is closed.
            self._file = open_file(path, "ab", buffering=0)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
        self.length = 0
        """Bytes of the events that are on disk."""
        for event, self.length in read_events(path):
            read(event, self.length)
        # A line that a crash tore would spoil the next one.
        self._file.truncate(self.length)

    def append(self, event: Event) -> None:
        """Adds an event; it is on disk when this returns."""
        line = to_line(event).encode() + b"\n"
        try:
            with writing(self._path):
                if os.fstat(self._file.fileno()).st_size > self.length:
                    self._file.truncate(self.length)  # the disk refused an event, and then to drop what it had of it
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file.fileno())
        except StorageError:
            with suppress(OSError):
                self._file.truncate(self.length)
            raise
        self.length += len(line)

    @property
    def open_path(self) -> Path:
        """A path that reads the open file even after it was moved or deleted (proc(5), /proc/pid/fd)."""
        return Path(f"/proc/self/fd/{self._file.fileno()}")

    def is_in_place(self) -> bool:
        """Whether the open file still has its name. True also when the disk does not answer."""
        try:
            there, here = self._path.stat(), os.fstat(self._file.fileno())
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def close(self) -> None:
        """Closes the file. All that was appended is on disk already, whatever the disk says now."""
        with suppress(OSError):
            self._file.close()


def noted_by(folder: SweepFolder) -> dict[str, Any]:
    """The note that the tracking writer keeps in the folder; empty when there is none that can be read."""
    with suppress(OSError, ValueError):
        noted = json_text.parse(folder.tracking.read_bytes())
        return noted if isinstance(noted, dict) else {}
    return {}


def acknowledged_bytes(note: Mapping[str, object]) -> int:
    """How much of the event log the tracking server has taken, by the note of `noted_by`; 0 when it does not say."""
    value = note.get("acknowledged_bytes")
    return value if isinstance(value, int) else 0


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the disk refuses while the sweep runs into a `StorageError` that names `path`."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        raise StorageError(gone(path)) from error
    except OSError as error:
        way_out = "make room, then go on with qsweep resume"
        raise StorageError(f"{path}: cannot be written: {error.strerror}; {way_out}") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what the disk does not give into a `StorageError` that names `path`."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError:
        raise StorageError(f"{path}: is missing; put the file back from a copy, or launch anew") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def gone(path: Path) -> str:
    """The message for a sweep's folder, or a file in it, that was moved, deleted or replaced."""
    way_out = "where it was moved, put it back or go on with qsweep resume at its new place"
    return f"{path}: is gone, or is another file: the sweep's folder was deleted, moved or replaced; {way_out}"


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Reads the events from a byte offset on, each with the offset after it. Ignores a last line without its end.

    Raises:
        StorageError: there is no log, it cannot be read, or a line before the last one is damaged.
    """
    with _reading(path), path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                event = from_line(line)
            except ValueError:
                problem = f"{path}: the line at byte {offset} is damaged, or a newer version of qsweep wrote it"
                raise StorageError(f"{problem}; put the file back from a copy, or launch anew") from None
            offset += len(line)
            yield event, offset
