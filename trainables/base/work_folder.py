"""A folder to make a large result in, which does not stay on disk when its process is killed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = ".making-"


def lock(target: Path) -> FileLock:
    """Returns the lock that a process holds while it makes `target`, whose name holds no "-"."""
    return FileLock(target.with_suffix(".lock"))


@contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """Gives an empty folder beside `target`, and deletes it at the end.

    Deletes those of killed processes first, of this target and of its neighbours: the locks of these are free. The
    caller holds the lock of `target`.
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
