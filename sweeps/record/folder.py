"""A sweep's folder on disk: its resolved configuration, its events, and one folder per trial.

NAME/
├── config.json           the folder's format and the resolved configuration; a folder with this file is a sweep
├── events.jsonl          all events, one per line
├── base_eval_rows.json   the evaluation of the base without an adapter, row by row
├── base_samples.jsonl    the answers of the base, if answers are scored; both files have a digest of the base's name
│                         before their ending where the sweep searches its base
├── driver.log            the output of the drivers
├── report.html           the latest page of qsweep report; the folder is whole without it
├── requests/             requests of other processes that the driver has not answered yet
├── mirror.json           the last drivers of this folder that wrote to its mirror, if there is a mirror
├── tracking.json         the tracking server, and how much of the event log it has acknowledged
└── trials/TRIAL_KEY/     snapshot-STEP (to resume from), best-STEP (adapter/, eval_rows.json and, if answers are
                          scored, samples.jsonl), and rows-STEP of each report (eval_rows.json)
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
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

FilesKind = Literal["snapshot", "best", "rows"]
FORMAT = 2
"""Format of a sweep's folder and event log. A version of qsweep that cannot read the format before increases it."""
REPORT = "report.html"
DRIVER_LOG = "driver.log"
MIRROR_NOTE = "mirror.json"
LOCK_SECONDS = 0.5
"""Seconds that a driver waits for its lock. `is_driven` in another process holds the lock for a moment."""


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
        self.driver_log = path / DRIVER_LOG
        self.requests = path / "requests"
        self.in_use: frozenset[Path] = frozenset()
        """Best adapters that are being sent to the sweep's mirror: `prune_adapters` leaves them."""

    def of_base(self, base: str) -> tuple[Path, Path]:
        """Returns the files of the rows and of the answers of a base, named as in `BaseEvaluated.base`."""
        if not base:
            return self.base_rows, self.base_samples
        digest = hashlib.sha256(base.encode()).hexdigest()[:8]
        rows, answers = (path.with_stem(f"{path.stem}-{digest}") for path in (self.base_rows, self.base_samples))
        return rows, answers

    def document(self) -> dict[str, Any]:
        """Returns the content of config.json. Raises StorageError if its format is another; see also `described`."""
        document = self.described()
        refuse_other_format(document, str(self.config))
        return document

    def described(self) -> dict[str, Any]:
        """Returns the content of config.json in any format: `sweep_id` is there, and `config` is a mapping.

        Raises:
            OSError: config.json cannot be read; the folder holds no sweep.
            ValueError: config.json holds something else.
        """
        document: dict[str, Any] = json_text.parse(self.config.read_bytes())
        if not isinstance(document, dict) or not isinstance(document.get("config"), dict) or "sweep_id" not in document:
            raise ValueError("it has no sweep_id, or its config is no mapping")
        return document

    def mirror(self) -> str | None:
        """Returns the URI of the sweep's mirror on an object store; None if there is no mirror."""
        with suppress(OSError, ValueError):
            found = self.described().get("mirror")
            return found if isinstance(found, str) and found else None
        return None

    def holds(self, sweep_id: object) -> bool:
        """Tells whether the folder holds the sweep of this id."""
        with suppress(OSError, ValueError):
            return bool(self.described()["sweep_id"] == sweep_id)
        return False

    def trial(self, trial_key: str) -> Path:
        """Returns the folder of a trial's snapshots, best adapters and evaluations."""
        return self.path / "trials" / trial_key

    def trials(self) -> list[Path]:
        """Returns the folders of all trials that have kept something."""
        return [path for path in entries(self.path / "trials") if paths.is_folder(path)]

    def clean(self) -> None:
        """Removes drafts that killed processes left in the trials' folders. No other process may be writing."""
        for trial in self.trials():
            for draft in (path for path in entries(trial) if path.name.startswith(".")):
                shutil.rmtree(draft, ignore_errors=True)

    def keep(self, trial_key: str, kind: FilesKind, step: int, files: Mapping[str, bytes]) -> Path:
        """Writes a snapshot, best adapter or evaluation of the trial, and returns its folder."""
        # Does not make the sweep's own folder: a deleted folder must not come back half.
        self.trial(trial_key).parent.mkdir(FOLDER_MODE, exist_ok=True)
        path = self.kept(trial_key, kind, step)
        write_folder(path, files)
        return path

    def kept(self, trial_key: str, kind: FilesKind, step: int) -> Path:
        """Returns the folder that `keep` writes."""
        return self.trial(trial_key) / f"{kind}-{step:06d}"

    def prune_adapters(self, trial_key: str, kept: Path) -> None:
        """Removes the best adapters of earlier steps than `kept`, except those in use."""
        for path in self.all(trial_key, "best"):
            if _step(path) < _step(kept) and path not in self.in_use:
                remove_folder(path)

    def drop_snapshots(self, trial_key: str, but: int = 0) -> None:
        """Removes the trial's snapshots except the latest `but`."""
        for path in self.all(trial_key, "snapshot")[but:]:
            remove_folder(path)

    def all(self, trial_key: str, kind: FilesKind, look: Callable[[Path], list[Path]] = entries) -> list[Path]:
        """Returns the folders of a kind that are still there, latest step first. `look` lists the trial's folder."""
        named = [path for path in look(self.trial(trial_key)) if path.name.startswith(f"{kind}-")]
        return sorted((path for path in named if _step(path) >= 0), key=_step, reverse=True)

    def request_files(self) -> list[Path]:
        """Returns the files of requests, the first sent first, without drafts."""
        return sorted(path for path in entries(self.requests) if _is_request(path.name))


def stamp() -> dict[str, Any]:
    """Returns the entries of config.json about the version that writes it: the folder's format and qsweep's version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"format": FORMAT, "qsweep": version("qlora-sweeps")}
    except PackageNotFoundError:
        return {"format": FORMAT}


def refuse_other_format(document: Mapping[str, Any], where: str, read: int = FORMAT) -> None:
    """Raises `StorageError` if a document's format is not `read`. The message names the version that reads it."""
    if document.get("format") != read:
        found = document.get("format", "none")
        writer = f"qsweep {document['qsweep']}" if "qsweep" in document else "the version that wrote it"
        told = f"has format {found}, and this version reads format {read} alone: go on with {writer}"
        raise StorageError(f"{where}: {told}")


def _step(path: Path) -> int:
    """Returns the step of a folder that `keep` wrote; -1 for any other path."""
    digits = path.name.rpartition("-")[2]
    # Folders are sorted by number: from a million steps on, names are longer and sort before those of fewer steps.
    return int(digits) if digits.isdecimal() else -1


def _is_request(name: str) -> bool:
    # A name that is not UTF-8 could not be written into the event log as the request's id.
    is_text = name.encode(errors="replace").decode() == name
    return is_text and name.endswith(".json") and name[0] != "."


Claim = Callable[[str], Mapping[str, Any] | None]


def create(storage: Path, name: str, document: Mapping[str, Any], claim: Claim = lambda _name: {}) -> SweepFolder:
    """Makes storage/name, or name-2, name-3, ... if the name is taken, and writes config.json.

    Making a folder is atomic, so two launches at once get two folders.

    Args:
        document: content of config.json, without the folder's path.
        claim: claims the folder's name elsewhere too. It returns more entries of config.json, or None if the name is
            taken there.

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
    """Locks the sweep's folder against a second driver. The lock ends with the process, even if it is killed.

    Raises:
        StorageError: another driver holds the lock, or the folder cannot be written.
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
        with suppress(OSError):  # the end of the process frees the lock
            lock.release()


def is_driven(folder: SweepFolder) -> bool:
    """Tells whether a process drives the sweep now."""
    return is_held(folder.path / "driver.lock")


def is_held(path: Path) -> bool:
    """Tells whether a process has locked the file. False if there is no such file, or its file system has no locks."""
    try:
        file = path.open("rb")
    except OSError:
        return False
    with file:
        try:
            # A shared lock, which filelock does not have: two processes that look at the same time do not take each
            # other for the holder.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False


class EventLog:
    """The append-only file of events."""

    def __init__(self, path: Path, read: Callable[[Event, int], None] = lambda _event, _offset: None) -> None:
        """Opens the file. Passes each event in the file to `read`, with the offset after the event."""
        self._path = path
        try:
            # Unbuffered: bytes that a full disk refused must not be written again when the file is closed.
            self._file = open_file(path, "ab", buffering=0)
        except OSError as error:
            raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
        self.length = 0
        """Bytes of the events on disk."""
        for event, self.length in read_events(path):
            read(event, self.length)
        # Removes a line that a crash tore, which would spoil the next line.
        self._file.truncate(self.length)

    def append(self, event: Event) -> None:
        """Appends an event, which is on disk when this method returns."""
        line = to_line(event).encode() + b"\n"
        try:
            with writing(self._path):
                if os.fstat(self._file.fileno()).st_size > self.length:
                    self._file.truncate(self.length)  # the disk refused an earlier event, and then to remove its part
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
        """Returns a path that reads the open file even after it was moved or deleted (proc(5), /proc/pid/fd)."""
        return Path(f"/proc/self/fd/{self._file.fileno()}")

    def is_in_place(self) -> bool:
        """Tells whether the open file is still at its path. True also if the disk does not answer."""
        try:
            there, here = self._path.stat(), os.fstat(self._file.fileno())
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def close(self) -> None:
        """Closes the file. Errors are ignored, because all events are on disk already."""
        with suppress(OSError):
            self._file.close()


def noted_by(folder: SweepFolder) -> dict[str, Any]:
    """Reads the tracking writer's note in the folder; returns an empty one if none can be read."""
    with suppress(OSError, ValueError):
        noted = json_text.parse(folder.tracking.read_bytes())
        return noted if isinstance(noted, dict) else {}
    return {}


def acknowledged_bytes(note: Mapping[str, object]) -> int:
    """Returns the bytes of the event log that the tracking server has acknowledged, by its note; 0 if unknown."""
    value = note.get("acknowledged_bytes")
    return value if isinstance(value, int) else 0


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an error of writing, while the sweep runs, into a `StorageError` that names `path`."""
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
    """Turns an error of reading into a `StorageError` that names `path`."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError:
        raise StorageError(f"{path}: is missing; put the file back from a copy, or launch anew") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def gone(path: Path) -> str:
    """Returns the message for a sweep's folder, or a file in it, that was moved, deleted or replaced."""
    way_out = "where it was moved, put it back or go on with qsweep resume at its new place"
    return f"{path}: is gone, or is another file: the sweep's folder was deleted, moved or replaced; {way_out}"


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Yields the events from a byte offset on, each with the offset after it. Ignores a last line without a line break.

    Raises:
        StorageError: there is no log, the log cannot be read, or a line with a line break is damaged.
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
