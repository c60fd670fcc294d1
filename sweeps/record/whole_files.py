"""Files and folders that readers see whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sweeps.record.private_files import make_folder, open_file


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
