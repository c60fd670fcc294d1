"""Keeps Ray's files on this machine in order: removes Ray's folder when the cluster ends, keeps the token private."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray._private.authentication import authentication_token_setup as tokens

from cluster import timeouts
from cluster.errors import NotStarted
from cluster.libraries import replaced

LONGEST_PATH = 43
"""Most characters in the path of Ray's folder: Ray appends up to 64 for its sockets, and Unix allows 107 in all."""
WAY_OUT = "make room there, or name another place with TMPDIR"
_open: list[Path] = []
"""Folders whose `temporary_folder` block has not ended."""


@contextmanager
def temporary_folder(purpose: str, longest_path: int | None = None) -> Iterator[Path]:
    """Makes a folder that only its owner can read, and removes the folder when the block ends.

    A process that is killed leaves its folder behind; the next call for the same purpose removes it.

    Args:
        purpose: part of the folder's name, "qsweep-PURPOSE-...".
        longest_path: most characters in the folder's path; it lies in /tmp if TMPDIR makes the path longer.

    Raises:
        NotStarted: the folder cannot be made.
    """
    prefix = f"qsweep-{purpose}-"
    try:
        place = Path(tempfile.gettempdir())
        if longest_path is not None and len(str(place / prefix)) + 8 > longest_path:
            place = Path("/tmp")
        _remove_abandoned(place, prefix)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    except OSError as error:
        raise NotStarted(f"no folder for temporary files can be made: {error}: {WAY_OUT}") from error
    lock = os.open(folder, os.O_RDONLY)
    _open.append(folder)
    try:
        # The folder itself is locked: filelock would need a lock file in the folder.
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        _open.remove(folder)
        _remove(folder)
        os.close(lock)


def remove_all() -> None:
    """Removes every temporary folder of this process, before the process exits without ending its blocks."""
    for folder in list(_open):
        _remove(folder)


@contextmanager
def ray_folder() -> Iterator[Path]:
    """Makes the folder for a Ray of this process's own: logs, sockets, and objects that memory does not hold.

    $QSWEEP_RAY_DIR names a folder that stays, so that one can read Ray's logs.
    """
    kept = os.environ.get("QSWEEP_RAY_DIR")
    if kept:
        folder = Path(kept).absolute()
        with suppress(OSError):  # Ray itself reports it
            # Ray would let everyone write there.
            folder.mkdir(0o700, exist_ok=True)
        yield folder
    else:
        with temporary_folder("ray", LONGEST_PATH) as folder:
            yield folder


@contextmanager
def private_token() -> Iterator[None]:
    """Makes Ray write its token once, and readable only for its owner, while the block runs.

    Ray itself lets everyone read the token, and writes it in place: of two drivers that start at once on a new machine,
    one would go on with a token that its own daemons do not have
    (ray/_private/authentication/authentication_token_setup.py, 2.60).
    """
    with suppress(OSError):
        # Ray does not write an existing token again.
        tokens._get_default_token_path().chmod(0o600)
    generate = tokens.generate_and_save_token

    def generate_privately() -> None:
        path = tokens._get_default_token_path()
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        before = os.umask(0o077)
        try:
            with replaced(tokens, _get_default_token_path=lambda: draft):
                generate()
            _put_first(draft, path)
        finally:
            os.umask(before)
            draft.unlink(missing_ok=True)

    with replaced(tokens, generate_and_save_token=generate_privately):
        yield


def _put_first(draft: Path, path: Path) -> None:
    """Gives a file its name, unless another process has just put a file there."""
    try:
        path.hardlink_to(draft)
    except OSError:
        # Either another process has put its token there, which stays unless it is empty, or there are no hard links.
        if not path.exists() or not path.read_bytes().strip():
            draft.replace(path)


def _remove_abandoned(place: Path, prefix: str) -> None:
    for folder in place.glob(f"{prefix}*"):
        with suppress(OSError):
            status = folder.lstat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > timeouts.FOLDER_ABANDONED_SECONDS:
                _remove_unlocked(folder)


def _remove_unlocked(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + timeouts.FOLDER_REMOVAL_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        threading.Event().wait(0.05)
