"""Digests of an adapter's files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path


def of_files(files: Mapping[str, bytes]) -> str:
    """Returns a digest of 64 hex digits over the names and contents of files. Their order does not matter."""
    return _of({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})


def _of(digests: Mapping[str, str]) -> str:
    lines = (f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def of_folder(folder: Path) -> str:
    """Returns `of_files` of all files in a folder, and reads them in pieces. A missing folder counts as empty."""
    return _of({name: of_file(path) for name, path in _paths(folder)})


def of_file(path: Path) -> str:
    """Returns the SHA-256 of a file, and reads the file in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_files(folder: Path) -> dict[str, bytes]:
    """Returns all files of a folder: path in the folder -> content."""
    return {name: path.read_bytes() for name, path in _paths(folder)}


def _paths(folder: Path) -> list[tuple[str, Path]]:
    return [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()]
