"""Digests of an adapter's files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path


def of_files(files: Mapping[str, bytes]) -> str:
    """64 hex digits over the names and contents of files, in whatever order they come."""
    return _of({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})


def _of(digests: Mapping[str, str]) -> str:
    lines = (f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def of_folder(folder: Path) -> str:
    """`of_files` of all files in a folder; that of no files when it is not there. Holds none of them in memory."""
    return _of({name: of_file(path) for name, path in _paths(folder)})


def of_file(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    return {name: path.read_bytes() for name, path in _paths(folder)}


def _paths(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()]
