"""Tracking URIs, without importing MLflow."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

_SQLITE = "sqlite:///"


def artifact_root(uri: str) -> str | None:
    """Where artifacts of an experiment go: beside a SQLite database; None where the server decides."""
    return (Path(uri.removeprefix(_SQLITE)).parent / "mlartifacts").as_uri() if uri.startswith(_SQLITE) else None


def without_password(uri: str) -> str:
    """The URI as it may be shown: a password in it becomes ***."""
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))
