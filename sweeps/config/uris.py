"""Tracking URIs, without importing MLflow."""

from __future__ import annotations

from pathlib import Path

from trainables.inputs import paths

_SQLITE = "sqlite:///"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite database; None for anything else."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]) if uri.startswith(_SQLITE) else None


def absolute_uri(uri: str, folder: Path) -> str:
    """The URI; that of a SQLite file, which is relative to `folder`, means the same from everywhere."""
    if not uri.startswith(_SQLITE) or uri.startswith(_SQLITE + "/"):
        return uri
    return _SQLITE + str(paths.absolute(folder / uri.removeprefix(_SQLITE)))


def artifact_root(uri: str) -> str | None:
    """Where artifacts of an experiment go: beside a SQLite database; None where the server decides."""
    file = sqlite_file(uri)
    return (file.parent / "mlartifacts").as_uri() if file is not None else None
