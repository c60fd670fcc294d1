"""Files and folders that readers see whole or not at all, and that only their owner may read.

A sweep's folder holds data of the user: evaluation rows, adapters, paths, messages. If the user has set an unusual
umask, the umask decides who else may read new files.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal

from filelock import FileLock

USUAL_MASKS = (0o022, 0o002)
"""Default umasks of systems. Any other umask is the user's choice, and stays in force."""


def _mask() -> int:
    # A umask can be read only by setting it. Files that another thread makes meanwhile are private.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_IS_USUAL = _mask() in USUAL_MASKS
FOLDER_MODE = 0o700 if _IS_USUAL else 0o777
"""Mode for `Path.mkdir`, which applies the umask."""
_FILE_MODE = 0o600 if _IS_USUAL else 0o666


def draft_of(path: Path) -> Path:
    """Returns a new path beside `path` for an unfinished file or folder. Readers skip names that begin with a dot."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that readers see whole or not at all."""
    draft = draft_of(path)
    try:
        _write(draft, content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    with open_file(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes a folder that readers see whole or not at all; replaces an existing one.

    Makes the parent folder if it is missing, but no folder above: raises FileNotFoundError if those are gone, or go
    meanwhile. So a sweep's folder that a user moves or deletes does not come back half.
    """
    draft = draft_of(path)
    try:
        make_folder(draft, below=path.parent.parent)
        for name, content in files.items():
            target = draft / name
            make_folder(target.parent, below=draft)
            _write(target, content)
        remove_folder(path)
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Removes a folder, which readers see whole or not at all, as far as the disk lets it."""
    with suppress(OSError):
        # Renamed to a draft first: if the driver is killed meanwhile, no reader takes a half of the folder for a whole.
        path = path.rename(draft_of(path))
    shutil.rmtree(path, ignore_errors=True)


def listed(folder: Path) -> list[Path]:
    """Lists a folder in no order; empty if it is gone or may not be read. Raises OSError if the disk fails."""
    # Not Path.glob, which looks twice and raises if the folder goes in between (pathlib.py, 3.11).
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return list(folder.iterdir())
    return []


def entries(folder: Path) -> list[Path]:
    """Returns `listed`; nothing also if the disk does not answer."""
    with suppress(OSError):
        return listed(folder)
    return []


def make_folder(path: Path, below: Path | None = None) -> None:
    """Makes a folder and the missing folders above it; leaves existing folders as they are.

    Neither `below` nor a folder above it is made: raises FileNotFoundError if `below` is missing.
    """
    if path == below:
        return
    if not path.parent.is_dir():
        make_folder(path.parent, below)  # not mkdir(parents=True), which gives the folders above the usual mode
    path.mkdir(FOLDER_MODE, exist_ok=True)


def open_file(path: Path, mode: Literal["a", "ab", "wb"], buffering: int = -1) -> IO[Any]:
    """Opens a file for writing, and makes it if it is missing."""
    return open(path, mode, buffering, opener=lambda name, flags: os.open(name, flags, _FILE_MODE))


def file_lock(path: Path, timeout_seconds: float = -1) -> FileLock:
    """Returns a lock on a file, which is made if it is missing. The kernel frees the lock if its process is killed.

    Args:
        path: the file. It stays after the lock is released.
        timeout_seconds: how long `acquire` waits before it raises `filelock.Timeout`; -1 waits until the lock is free.

    Raises:
        OSError: the file cannot be written, or its file system has no locks.
    """
    with open_file(path, "a") as file:  # FileLock would give a new file its own mode, whatever the umask
        try:
            fcntl.flock(file, fcntl.LOCK_UN)
        except OSError as error:
            # FileLock would take the file itself for a lock, and wait for a process that does not exist.
            problem = f"its file system has no locks ({error.strerror}): mount it with flock, or choose another storage"
            raise OSError(error.errno, problem) from None
    return FileLock(path, timeout=timeout_seconds)
