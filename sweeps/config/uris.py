"""Reads tracking URIs without MLflow, and addresses on object stores."""

from __future__ import annotations

import re
from pathlib import Path

from trainables.inputs import paths

_SQLITE = "sqlite:///"
_BUCKET = re.compile(r"(s3|gs)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/(?!\.{1,2}(/|$))[A-Za-z0-9!_.*'()-]+)*/?")
WORK_FOLDER = "results"
"""Local folder for the folders of sweeps whose storage is an object store; relative to the current folder."""


def sqlite_file(uri: str) -> Path | None:
    """Returns the file of a SQLite URI; None for any other URI."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]) if uri.startswith(_SQLITE) else None


def absolute_uri(uri: str, folder: Path) -> str:
    """Returns the URI with an absolute path if it is a SQLite URI; `folder` is the start of relative paths."""
    if not uri.startswith(_SQLITE) or uri.startswith(_SQLITE + "/"):
        return uri
    return _SQLITE + str(paths.absolute(folder / paths.at_home(Path(uri.removeprefix(_SQLITE)))))


def artifact_root(uri: str) -> str | None:
    """Returns the URI of an experiment's artifact folder, next to its SQLite database; None if a server decides."""
    file = sqlite_file(uri)
    return (file.parent / "mlartifacts").as_uri() if file is not None else None


def is_web(uri: str) -> bool:
    """Tells whether a URI is the web address of a server."""
    return uri.startswith(("http://", "https://"))


def is_object_store(storage: str) -> bool:
    """Tells whether a storage is an address on an object store, not a folder."""
    return storage.startswith(("s3://", "gs://"))


def bucket_problem(storage: str) -> str | None:
    """Returns the problem of an address on an object store; None if there is none."""
    if _BUCKET.fullmatch(storage) is not None:
        return None
    return "must be s3://BUCKET/PREFIX or gs://BUCKET/PREFIX: small letters, digits, dots and dashes name a bucket"


def local_storage(storage: str) -> str:
    """Returns the folder for the folders of sweeps on the driver's disk."""
    return WORK_FOLDER if is_object_store(storage) else storage


def work_folder(storage: str) -> Path:
    """Returns `local_storage` as an absolute path; relative paths start at the current folder."""
    return Path.cwd() / local_storage(storage)
