"""The files that Ray makes on this machine: its folder goes with the cluster, its token is its owner's alone."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
from ray._private.authentication import authentication_token_setup as tokens

LONGEST_PATH = 43
"""Characters of a folder for Ray: its sockets' paths add up to 64, and Unix allows them 107."""
UNHELD_SECONDS = 60.0
"""A folder that nobody holds is abandoned when it is older: a younger one may be about to be held."""
REMOVAL_SECONDS = 5.0
"""How long processes that end may still write into a folder that goes."""
_held: list[Path] = []
"""The folders of blocks that have not ended."""


@contextmanager
def temporary_folder(purpose: str, longest_path: int | None = None) -> Iterator[Path]:
    """A folder that its owner alone can read and that goes with the block.

    A process that is killed leaves its folder behind; whoever makes the next one for the same purpose removes it.

    Args:
        purpose: part of its name, "qsweep-PURPOSE-...".
        longest_path: the most characters that its path may have; where TMPDIR makes it longer it lies in /tmp.
    """
    prefix = f"qsweep-{purpose}-"
    place = Path(tempfile.gettempdir())
    if longest_path is not None and len(str(place / prefix)) + 8 > longest_path:
        place = Path("/tmp")
    _remove_abandoned(place, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    held = os.open(folder, os.O_RDONLY)
    _held.append(folder)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield folder
    finally:
        _held.remove(folder)
        _remove(folder)
        os.close(held)


def remove_all() -> None:
    """Removes every temporary folder of this process, which is about to end without its blocks."""
    for folder in list(_held):
        _remove(folder)


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A folder for a Ray of this process's own: its logs, its sockets, and objects that memory does not hold.

    $QSWEEP_RAY_DIR names one that stays, for whoever wants to read Ray's logs.
    """
    kept = os.environ.get("QSWEEP_RAY_DIR")
    if kept:
        folder = Path(kept).absolute()
        with suppress(OSError):  # of which Ray itself will tell
            # Ray would let everyone write there.
            folder.mkdir(0o700, exist_ok=True)
        yield folder
    else:
        with temporary_folder("ray", LONGEST_PATH) as folder:
            yield folder


@contextmanager
def private_token() -> Iterator[None]:
    """While the block runs, the file of the token that Ray makes for its clusters is its owner's alone.

    Ray lets everyone read it (ray/_private/authentication/authentication_token_setup.py, 2.60).
    """
    with suppress(OSError):
        # One that is there already: Ray does not write it again.
        tokens._get_default_token_path().chmod(0o600)
    generate = tokens.generate_and_save_token

    def generate_privately() -> None:
        before = os.umask(0o077)
        try:
            generate()
        finally:
            os.umask(before)

    tokens.generate_and_save_token = generate_privately
    try:
        yield
    finally:
        tokens.generate_and_save_token = generate


@contextmanager
def private_command_line() -> Iterator[None]:
    """While the block runs, Ray's list of jobs has only the name of the command: its words may hold passwords.

    The list is kept by the cluster and shown in its dashboard (ray/_private/worker.py, 2.60: `init`).
    """
    named = ray._private.utils.get_entrypoint_name
    ray._private.utils.get_entrypoint_name = lambda: "qsweep"
    try:
        yield
    finally:
        ray._private.utils.get_entrypoint_name = named


def _remove_abandoned(place: Path, prefix: str) -> None:
    for folder in place.glob(f"{prefix}*"):
        with suppress(OSError):
            found = folder.lstat()
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > UNHELD_SECONDS:
                _remove_unheld(folder)


def _remove_unheld(folder: Path) -> None:
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(held)


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + REMOVAL_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        threading.Event().wait(0.05)
