"""Files and folders that readers see whole or not at all, and that their owner alone may read.

A sweep's folder holds data of the user: evaluation rows, adapters, paths, messages. A umask of the user's own says who
else may read new files.
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
"""What systems set by themselves. Any other mask is the user's, and stays in force."""


def _mask() -> int:
    # The only way to read it is to set it: what another thread makes meanwhile is private.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_IS_USUAL = _mask() in USUAL_MASKS
FOLDER_MODE = 0o700 if _IS_USUAL else 0o777
"""For `Path.mkdir`, which applies the mask."""
_FILE_MODE = 0o600 if _IS_USUAL else 0o666


def draft_of(path: Path) -> Path:
    """A new name beside `path` for what is not whole yet; readers pass over names that begin with a dot."""
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
    """Writes a folder that readers see whole or not at all; one that is there already is replaced.

    The folder that it lies in is made where it is missing, and none above that: FileNotFoundError where they are gone,
    also where they go meanwhile. What somebody moves or deletes does not come back half.
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
    """Removes a folder that readers see whole or not at all, as far as the disk lets it."""
    with suppress(OSError):
        # Under a draft's name: a driver that is killed meanwhile leaves no half of it to be taken for the whole.
        path = path.rename(draft_of(path))
    shutil.rmtree(path, ignore_errors=True)


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, in no order; nothing where the folder is gone or may not be read.

    Raises:
        OSError: the disk does not show it, which says nothing of what lies there.
    """
    # Not Path.glob: it looks twice, and raises where the folder goes in between (pathlib.py, 3.11).
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return list(folder.iterdir())
    return []


def entries(folder: Path) -> list[Path]:
    """As `listed`; nothing, too, where the disk does not show it."""
    with suppress(OSError):
        return listed(folder)
    return []


def make_folder(path: Path, below: Path | None = None) -> None:
    """Makes a folder and those above it that are missing; one that is there stays as it is.

    Args:
        path: the folder.
        below: this folder of those, and what is above it, is not made: FileNotFoundError where it is missing.
    """
    if path == below:
        return
    if not path.parent.is_dir():
        make_folder(path.parent, below)  # not mkdir(parents=True): that gives those above the usual mode
    path.mkdir(FOLDER_MODE, exist_ok=True)


def open_file(path: Path, mode: Literal["a", "ab", "wb"], buffering: int = -1) -> IO[Any]:
    """Opens a file to write; one that is not there is made."""
    return open(path, mode, buffering, opener=lambda name, flags: os.open(name, flags, _FILE_MODE))


def file_lock(path: Path, timeout_seconds: float = -1) -> FileLock:
    """A lock on a file, which is made where it is missing. The kernel frees it when its process is killed.

    Args:
        path: the file. It stays when the lock is released.
        timeout_seconds: `acquire` waits so long before it raises `filelock.Timeout`; -1: until the lock is free.

    Raises:
        OSError: the file cannot be written, or its file system has no locks.
    """
    with open_file(path, "a") as file:  # FileLock would give a new file a mode of its own, whatever the mask
        try:
            fcntl.flock(file, fcntl.LOCK_UN)
        except OSError as error:
            # FileLock would go by whether the file is there, and wait for a process that is not.
            problem = f"its file system has no locks ({error.strerror}): mount it with flock, or choose another storage"
            raise OSError(error.errno, problem) from None
    return FileLock(path, timeout=timeout_seconds)
