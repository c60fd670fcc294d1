"""Tells whether a path from a user exists. A path that the system refuses (too long, forbidden) does not exist."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def is_file(path: Path) -> bool:
    """Tells whether the path is a file; False if Path.is_file raises (name too long, folder not readable)."""
    with suppress(OSError, ValueError):
        return path.is_file()
    return False


def is_folder(path: Path) -> bool:
    """Tells whether the path is a folder; False if Path.is_dir raises."""
    with suppress(OSError, ValueError):
        return path.is_dir()
    return False


def absolute(path: Path) -> Path:
    """Returns the absolute path with links resolved. Keeps links that form a circle, on which Path.resolve raises."""
    with suppress(OSError, ValueError, RuntimeError):
        return path.resolve()
    return path.absolute()


def is_unread(path: Path) -> bool:
    """Tells whether the path begins with $, or with ~NAME of no user: both stay literal and would name a folder."""
    return str(at_home(path)).startswith(("~", "$"))


def at_home(path: Path) -> Path:
    """Returns the path with a leading ~ as the home folder. Keeps ~NAME of no user, on which Path.expanduser raises."""
    with suppress(RuntimeError):
        return path.expanduser()
    return path
