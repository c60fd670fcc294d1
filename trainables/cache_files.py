"""Writes to the cache on this machine's disk: whole files, and temporary folders."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trainables.errors import TrainableError

_PREFIX = ".making-"


@contextmanager
def told_as_cache(folder: Path) -> Iterator[None]:
    """Names the cache folder in the error if the disk refuses a write in the block.

    Raises:
        TrainableError: in place of an OSError, and of the error of safetensors 0.8, which writes files by itself and
            has the system's message in its text.
    """
    try:
        yield
    except TrainableError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and "(os error " not in str(error):
            raise
        way_out = "make room, or name a folder on another disk with QSWEEP_CACHE"
        raise TrainableError(f"{folder}: the cache cannot be written: {error}: {way_out}") from error


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file beside `path` and renames it, so that no reader sees a part. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def lock(target: Path) -> FileLock:
    """Returns the lock that a process holds while it makes `target`, whose name holds no "-"."""
    return FileLock(target.with_suffix(".lock"))


@contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target`, and deletes the folder after the block.

    First deletes the folders that killed processes left, for this target and for its neighbours whose locks are free.
    The caller holds the lock of `target`.
    """
    for left in target.parent.glob(f"{_PREFIX}*-*"):
        of = target.with_name(left.name.removeprefix(_PREFIX).partition("-")[0])
        if of == target:
            shutil.rmtree(left, ignore_errors=True)
            continue
        try:
            with lock(of).acquire(timeout=0):
                shutil.rmtree(left, ignore_errors=True)
        except Timeout:
            pass  # that process is at work
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{_PREFIX}{target.name}-"))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
