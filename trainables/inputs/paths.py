"""Whether something lies where a user says; a name that cannot be is not there."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def is_file(path: Path) -> bool:
    """False too for a name that is too long, or in a folder that may not be looked into: Path.is_file raises then."""
    with suppress(OSError, ValueError):
        return path.is_file()
    return False


def is_folder(path: Path) -> bool:
    """Likewise."""
    with suppress(OSError, ValueError):
        return path.is_dir()
    return False


def absolute(path: Path) -> Path:
    """The path, its links followed as far as they lead somewhere: Path.resolve raises where they go round."""
    with suppress(OSError, ValueError, RuntimeError):
        return path.resolve()
    return path.absolute()
