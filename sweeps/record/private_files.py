"""New files and folders that their owner alone may read, unless a umask of the user's own says who else may.

A sweep's folder holds data of the user: evaluation rows, adapters, paths, messages.
"""

from __future__ import annotations

import fcntl
import os
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
