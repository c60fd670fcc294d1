"""Digests of an adapter's files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path


def of_files(files: Mapping[str, bytes]) -> str:
    """64 hex digits over the names and contents of files, in whatever order they come."""
    lines = (f"{name} {hashlib.sha256(content).hexdigest()}\n" for name, content in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def of_folder(folder: Path) -> str:
    """`of_files` of all files in a folder; that of no files when it is not there."""
    return of_files(read(folder))


def as_written(folder: Path) -> str | None:
    """The digest of an adapter when its trial wrote it, whatever its files are by now.

    Args:
        folder: holds the adapter, and the rows that it was evaluated on.

    Returns:
        None when it is not known, so that nobody trusts the folder: the trial itself does not need it.
    """
    try:
        rows = json.loads((folder / "eval_rows.json").read_bytes())
    except (OSError, ValueError):
        return None
    digest: str | None = rows.get("adapter_sha256")
    return digest


def read(folder: Path) -> dict[str, bytes]:
    """All files of a folder: path in it -> content."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
