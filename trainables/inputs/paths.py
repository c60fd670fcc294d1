"""Tells whether a path that a user names exists. A path that the system refuses (too long, forbidden) does not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether the path is a file. False where Path.is_file raises: a name too long, a folder that may not be read."""
    with suppress(OSError, ValueError):
        return path.is_file()
    return False


def is_folder(path: Path) -> bool:
    """Whether the path is a folder. False where Path.is_dir raises."""
    with suppress(OSError, ValueError):
        return path.is_dir()
    return False


def absolute(path: Path) -> Path:
    """The absolute path with links resolved; with links kept where they form a circle, on which Path.resolve raises."""
    with suppress(OSError, ValueError, RuntimeError):
        return path.resolve()
    return path.absolute()
