"""Finds the tracking store that a command means, and whether it may hold a sweep, without importing MLflow.

Importing MLflow takes seconds, and its client creates a SQLite database that is not there. So a database is looked at
with sqlite3, and a server is asked over HTTP; where that gives no answer, MLflow itself is left to find out.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import first_cause
from sweeps.config.model import NOT_AN_ADDRESS, is_tracking_uri
from sweeps.config.passwords import HIDDEN, without_password
from sweeps.config.uris import absolute_uri, is_object_store, is_web, sqlite_file
from sweeps.errors import ConfigError, SweepError
from sweeps.record.folder import SweepFolder, noted_by
from sweeps.tracking.run_tags import NAME, OF_A_SWEEP, SWEEP_ID, equals
from sweeps.tracking.views import TAG_PREFIX as VIEW
from trainables.inputs import paths
from trainables.inputs.legible import legible

DEFAULT = "sqlite:///mlflow.db"
BY_OPTION = "name the store with --tracking-uri"
"""The way out of a store that does not hold the sweep, on the command line."""
NOT_YET = f"a sweep that has just begun makes it within a minute; else {BY_OPTION}"
"""The same for the store that a sweep's folder names."""
LOOPBACK = "127.0.0.1"
_SECONDS = 2.0
_NOT_MLFLOWS = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
"""What SQLite says of another file; the first, that there is no such table (sqlite.org, Result Codes)."""


@dataclass(frozen=True)
class Place:
    """Where to look for a sweep."""

    uri: str
    sweep: str
    """The sweep's id or name."""
    folder: Path | None = None
    """The sweep's folder, when that was given."""

    @property
    def shown(self) -> str:
        """The store without passwords."""
        return without_password(self.uri)


def find(sweep: str, tracking_uri: str | None = None, environment: Mapping[str, str] = os.environ) -> Place:
    """Where `sweep` (an id, a name or a folder) is to be looked for.

    Raises:
        SweepError: the store or the sweep is not there.
    """
    if is_object_store(sweep):
        raise SweepError(
            f"{sweep}: name the sweep by its id or name and the MLflow store, or by its folder on this machine"
        )
    folder = SweepFolder(paths.at_home(Path(sweep)).absolute())
    given = environment.get("MLFLOW_TRACKING_URI")
    if not _is_of_sweep(folder, sweep):
        if paths.is_folder(folder.path) and "/" in sweep:
            raise SweepError(f"{folder.path}: no sweep here: a sweep's folder has a config.json")
        place = Place(absolute(tracking_uri or given or DEFAULT), sweep)
        try:
            check(place.uri)
        except SweepError as error:
            raise SweepError(f"{sweep}: no folder of a sweep, nor can its id or name be looked up: {error}") from None
        if _unknown(place):
            raise SweepError(
                f"{sweep}: no sweep of this id or name in {place.shown}; name its folder, or the store with "
                "--tracking-uri"
            )
        return place
    try:
        document = folder.document()
        sweep_id, launched = str(document["sweep_id"]), str(document["config"]["tracking"]["uri"])
    except (ValueError, KeyError, TypeError) as error:
        raise SweepError(f"{folder.config}: not the configuration of a sweep: {error}") from None
    # A sweep may have been sent to another MLflow since.
    kept = tracking_uri or with_password(str(noted_by(folder).get("uri") or launched), environment)
    place = Place(absolute(kept), sweep_id, folder.path)
    check(place.uri, BY_OPTION if tracking_uri else NOT_YET)
    if _unknown(place):
        raise SweepError(f"{folder.path}: not in {place.shown}: send it with qsweep resume {folder.path}")
    return place


def _is_of_sweep(folder: SweepFolder, sweep: str) -> bool:
    """Whether the word means this folder. A bare name may be that of a model's folder, which has a config.json too."""
    if not paths.is_file(folder.config):
        return False
    if "/" in sweep:
        return True
    try:
        folder.document()
    except (OSError, ValueError):
        return False
    return True


def store(tracking_uri: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """The tracking store of a command without a sweep. Raises `SweepError` when it is not there."""
    uri = absolute(tracking_uri or environment.get("MLFLOW_TRACKING_URI") or DEFAULT)
    check(uri)
    return uri


def with_password(uri: str, environment: Mapping[str, str]) -> str:
    """The URI that a sweep's folder names; its password, which is not kept there, comes from MLFLOW_TRACKING_URI.

    Raises:
        ConfigError: there is none.
    """
    if HIDDEN not in uri or sqlite_file(uri) is not None:
        return uri
    given = environment.get("MLFLOW_TRACKING_URI", "")
    if without_password(given) != without_password(uri):
        raise ConfigError(
            [f"tracking.uri: the password of {uri} is not kept: give the whole URI in MLFLOW_TRACKING_URI"]
        )
    return given


def absolute(uri: str) -> str:
    """The URI with an absolute path: MLflow remembers stores by their URI alone."""
    return absolute_uri(uri, Path.cwd())


def check(uri: str, way_out: str = BY_OPTION) -> None:
    """Raises `SweepError`, with a way out, when the URI is none, a database is not there, or no server answers."""
    try:
        is_tracking_uri(uri)
    except ValueError as error:
        raise SweepError(f"tracking URI: {legible(repr(without_password(uri)))} {error}") from None
    file = sqlite_file(uri)
    if file is not None and not paths.is_file(file):
        raise SweepError(f"{uri}: no such database; {way_out}")
    if is_web(uri):
        _ask(uri)
    elif uri.startswith("postgresql"):
        _knock(uri)


def _ask(uri: str) -> None:
    import requests  # a third of a second

    try:
        # Whatever it answers, something is there; MLflow's own client says what is wrong.
        requests.get(f"{uri.rstrip('/')}/health", timeout=_SECONDS)
    except requests.exceptions.SSLError:
        return
    except (requests.exceptions.InvalidURL, UnicodeError):
        # `from None`, here and below: the errors name the whole URI.
        raise SweepError(f"{without_password(uri)}: {NOT_AN_ADDRESS}") from None
    except (requests.RequestException, ValueError) as error:
        raise SweepError(f"{without_password(uri)}: no MLflow server answers there: {reason(error)}") from None


def _knock(uri: str) -> None:
    """Raises `SweepError` when nothing listens: MLflow itself asks a database that is away for 100 seconds."""
    from sqlalchemy.engine import make_url  # a third of a second
    from sqlalchemy.exc import ArgumentError

    try:
        place = make_url(uri)
        port = place.port or int(os.environ.get("PGPORT") or 5432)
    except (ArgumentError, ValueError):
        return
    # A socket of this machine, or several servers: MLflow finds out.
    named = place.query.keys() & {"host", "hostaddr", "port", "service"}
    if not place.host or "," in place.host or named:
        return
    try:
        socket.create_connection((place.host, port), _SECONDS).close()
    except (OSError, ValueError) as error:
        raise SweepError(f"{without_password(uri)}: no database answers there: {reason(error)}") from None


def reason(error: BaseException) -> str:
    """What the first cause of an error says, in a few words."""
    cause = first_cause(error)
    return getattr(cause, "strerror", None) or str(cause)


def _unknown(place: Place) -> bool:
    """Whether the store certainly does not hold the sweep."""
    file = sqlite_file(place.uri)
    try:
        if file is not None:
            return not _in_database(file, place.sweep)
        if is_web(place.uri):
            return run_on_server(place.uri, place.sweep) is None
    except sqlite3.DatabaseError as error:
        code = error.sqlite_errorcode & 0xFF
        # MLflow waits for one that is locked, and 100 seconds for one that the disk does not give.
        if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            problem = "not a database of MLflow" if code in _NOT_MLFLOWS else "cannot be read"
            raise SweepError(f"{place.shown}: {problem} ({error}); {BY_OPTION}") from None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return False


def _in_database(file: Path, sweep: str) -> bool:
    """Looks into MLflow's tables (mlflow/store/tracking/dbmodels/models.py, 3.17.2)."""
    question = (
        "select 1 from tags join runs using (run_uuid) "
        f"where tags.key = '{SWEEP_ID}' and (tags.value = ? or runs.name = ?) "
        f"or tags.key = '{NAME}' and tags.value = ? limit 1"
    )
    with reading(file) as database:
        return database.execute(question, (sweep,) * 3).fetchone() is not None


def reading(file: Path) -> Any:
    """A SQLite database that is there, open for a block that only reads."""
    # Not mode=ro: SQLite then refuses what a writer has left that was killed in a transaction; it must undo that first.
    return closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=_SECONDS))


def run_on_server(uri: str, sweep: str, seconds: float = _SECONDS) -> dict[str, Any] | None:
    """A sweep's own run on an MLflow server, as its REST API tells it: of an id, else the newest of a name.

    Raises:
        OSError, ValueError, KeyError, TypeError: the server does not tell.
    """
    if "'" in sweep:
        return None
    experiments, token = [], ""
    while True:
        answer = _post(uri, "experiments/search", {"max_results": 1000, "page_token": token}, seconds)
        experiments += [each["experiment_id"] for each in answer.get("experiments", [])]
        token = answer.get("next_page_token", "")
        if not token:
            break
    for condition in (equals(SWEEP_ID, sweep), equals(NAME, sweep), f"attributes.run_name = '{sweep}'"):
        wanted = {"experiment_ids": experiments, "filter": f"{condition} and {OF_A_SWEEP}", "max_results": 1}
        found = _post(uri, "runs/search", {**wanted, "order_by": ["start_time DESC"]}, seconds).get("runs")
        if found:
            run: dict[str, Any] = found[0]
            return run
    return None


def has_view(uri: str, experiment_id: str, key: str, seconds: float = _SECONDS) -> bool:
    """Whether an experiment on an MLflow server has a saved view of a key. Raises as `run_on_server` does."""
    asked = {"params": {"experiment_id": experiment_id}, "timeout": seconds}
    experiment = _asked("GET", uri, "experiments/get", **asked)["experiment"]
    return any(tag["key"] == VIEW + key for tag in experiment.get("tags", []))


def _post(uri: str, path: str, body: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    return _asked("POST", uri, path, json=body, timeout=seconds)


def _asked(method: str, uri: str, path: str, **content: Any) -> dict[str, Any]:
    import requests

    # Else a proxy that the environment names would be asked for this machine's own server.
    proxies = {"no_proxy": LOOPBACK} if f"//{LOOPBACK}" in uri else None
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/{path}"
    answer = requests.request(method, address, proxies=proxies, **content)
    answer.raise_for_status()
    document: dict[str, Any] = answer.json()
    return document
