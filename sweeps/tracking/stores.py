"""Finds the tracking store that a command means, and checks that it answers.

MLflow's client creates a SQLite file that does not exist, and tries for 100 seconds to reach a database that does not
answer. A command therefore first connects once by itself.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from cluster.errors import first_cause
from sweeps.config.model import is_tracking_uri
from sweeps.config.passwords import shown_store, whole
from sweeps.config.uris import absolute_uri, is_object_store, is_web, sqlite_file
from sweeps.errors import SweepError
from sweeps.record.folder import SweepFolder, noted_by
from sweeps.tracking import timeouts
from trainables.inputs import paths
from trainables.inputs.legible import legible

DEFAULT = "sqlite:///mlflow.db"
BY_OPTION = "name the store with --tracking-uri"
"""Way out on the command line, if a store does not hold the sweep."""
NOT_YET = f"a sweep that has just begun creates its database within a minute; otherwise {BY_OPTION}"
"""Way out if a sweep's folder names the store."""


@dataclass(frozen=True)
class NamedSweep:
    """A sweep as a command names it, and the store to look in."""

    uri: str
    sweep: str
    """The sweep's id or name."""
    folder: Path | None = None
    """The sweep's folder, if the command names it."""

    @property
    def way_out(self) -> str:
        """Says what to do if the store does not hold the sweep."""
        if self.folder is None:
            return f"name its folder, or {BY_OPTION}"
        return f"send it with qsweep resume {self.folder} --resend"


def find(sweep: str, tracking_uri: str | None = None, environment: Mapping[str, str] = os.environ) -> NamedSweep:
    """Finds a sweep by its id, name or folder, and its store.

    Raises `SweepError` if the store does not answer, or the folder holds no sweep.
    """
    if is_object_store(sweep):
        raise SweepError(
            f"{sweep}: name the sweep by its id or name and the MLflow store, or by its folder on this machine"
        )
    folder = SweepFolder(paths.at_home(Path(sweep)).absolute())
    if not _is_of_sweep(folder, sweep):
        if paths.is_folder(folder.path) and "/" in sweep:
            raise SweepError(f"{folder.path}: no sweep here: a sweep's folder has a config.json")
        try:
            return NamedSweep(store(tracking_uri, environment), sweep)
        except SweepError as error:
            raise SweepError(f"{sweep}: no folder of a sweep, nor can its id or name be looked up: {error}") from None
    try:
        document = folder.document()
        sweep_id, launched = str(document["sweep_id"]), str(document["config"]["tracking"]["uri"])
    except (ValueError, KeyError, TypeError) as error:
        raise SweepError(f"{folder.config}: not the configuration of a sweep: {error}") from None
    # A sweep may have been sent to another MLflow since.
    given = shown_store(tracking_uri, {})
    uri = absolute(given or str(noted_by(folder).get("uri") or launched))
    check_store(uri, BY_OPTION if tracking_uri else NOT_YET, environment)
    return NamedSweep(uri, sweep_id, folder.path)


def _is_of_sweep(folder: SweepFolder, sweep: str) -> bool:
    """Tells whether `sweep` means this folder. A bare name may be a model's folder, which has a config.json too."""
    if not paths.is_file(folder.config):
        return False
    if "/" in sweep:
        return True
    try:
        folder.described()
    except (OSError, ValueError):
        return False
    return True


def store(tracking_uri: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """Returns the store of a command without a sweep's folder. Raises `SweepError` if nothing answers there."""
    uri = absolute(shown_store(tracking_uri, environment) or DEFAULT)
    check_store(uri, environment=environment)
    return uri


def absolute(uri: str) -> str:
    """Returns the URI with an absolute path: MLflow remembers stores by their URI alone."""
    return absolute_uri(uri, Path.cwd())


def check_store(uri: str, way_out: str = BY_OPTION, environment: Mapping[str, str] = os.environ) -> None:
    """Connects to the store once.

    Raises `SweepError` if `uri` is no tracking URI, its database file is missing or cannot be read, or nothing answers.
    """
    given = whole(uri, environment)
    try:
        is_tracking_uri(given)
    except ValueError as error:
        raise SweepError(f"tracking URI: {legible(repr(uri))} {error}") from None
    file = sqlite_file(uri)
    if file is not None:
        _open(file, uri, way_out)
        return
    listener = _listener(given)
    if listener is None:
        return
    try:
        socket.create_connection(listener, timeouts.CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        kind, cause = "MLflow server" if is_web(uri) else "database", first_cause(error)
        why = getattr(cause, "strerror", None) or cause
        # `from None`: the error may name the whole URI.
        raise SweepError(f"{uri}: no {kind} answers there: {why}") from None


def _open(file: Path, uri: str, way_out: str) -> None:
    if not paths.is_file(file):
        raise SweepError(f"{uri}: no such database; {way_out}")
    try:
        # Not mode=ro: SQLite must first undo the transaction of a writer that was killed.
        there = f"{file.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(there, uri=True, timeout=timeouts.CONNECT_SECONDS)) as database:
            database.execute("pragma schema_version")
    except sqlite3.DatabaseError as error:
        # A locked database is no error: MLflow waits for it.
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise SweepError(f"{uri}: cannot be read as a database ({error}); {BY_OPTION}") from None


def _listener(uri: str) -> tuple[str, int] | None:
    """Returns host and port to connect to. None if only MLflow can tell: a proxy, a Unix socket, several servers."""
    if is_web(uri):
        place = urlsplit(uri)
        host = str(place.hostname)
        is_proxied = not getproxies().keys().isdisjoint((place.scheme, "all")) and not proxy_bypass(host)
        return None if is_proxied else (host, place.port or (443 if place.scheme == "https" else 80))
    if not uri.startswith("postgresql"):
        return None
    from sqlalchemy.engine import make_url  # takes a third of a second
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
        port = url.port or int(os.environ.get("PGPORT") or 5432)
    except (ArgumentError, ValueError):
        return None
    is_elsewhere = url.query.keys() & {"host", "hostaddr", "port", "service"}
    return (url.host, port) if url.host and "," not in url.host and not is_elsewhere else None
