"""Whether the driver reaches MLflow, and MLflow accepts the name under which it is asked."""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.doctor.contract import Asked, Diagnosis, Facts
from cluster.errors import first_cause

ON, NEEDS_FILE, TAKES_GPU = "driver", True, False
SECONDS = 30.0
HUNG = "MLflow or a proxy before it does not answer: check the address, HTTP_PROXY and NO_PROXY"
ANSWER_SECONDS = 5.0
"""The time limit of one request."""
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
CLIENTS = {"postgresql": "psycopg2", "mysql": "MySQLdb", "mssql": "pyodbc"}
"""What SQLAlchemy 2.0 uses for a URI that names no client."""
REFUSED_HOST = "Invalid Host header"
"""mlflow/server/security_utils.py, 3.17.2. /health is answered whatever the name, so another address is asked."""


def look(asked: Asked) -> Facts:
    """What answers at the tracking URI. The URI itself is not among the facts: it may hold a password."""
    uri = asked.tracking_uri or ""
    if uri.startswith("sqlite:///"):
        return {"kind": "sqlite", **_database_file(Path(uri.removeprefix("sqlite:///").partition("?")[0]))}
    if uri.startswith(("http://", "https://")):
        return {"kind": "server", **_server(uri)}
    scheme = uri.partition("://")[0]
    return {"kind": "database", **_database(uri, *scheme.partition("+")[::2])}


def judge(facts: Facts, _driver: Facts, _asked: Asked) -> Diagnosis:
    """Fails when runs could not be written there."""
    if facts["kind"] != "server":
        problem = facts["problem"]
        return Diagnosis("ok", facts["place"]) if problem is None else Diagnosis("fail", problem, facts["mend"])
    place, status, host = facts["place"], facts["status"], facts["host"]
    if status is None:
        return Diagnosis(
            "fail",
            f"{place}: no answer: {facts['said']}",
            "start the server, or mend tracking.uri, HTTP_PROXY or NO_PROXY",
        )
    if status == 200:
        return Diagnosis("ok", f"{place} answers, and accepts the name {host}")
    if status == 403 and REFUSED_HOST in facts["said"]:
        return Diagnosis(
            "fail",
            f"{place}: 403 {REFUSED_HOST}: the server does not accept the name {host}",
            f"start it with --allowed-hosts '{host},localhost:*,127.0.0.1:*' (MLFLOW_SERVER_ALLOWED_HOSTS)",
        )
    if status in (401, 403):
        return Diagnosis(
            "fail",
            f"{place}: {status}: the server does not let this user in",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) for the driver",
        )
    if status == 404:
        return Diagnosis("fail", f"{place}: 404: no MLflow server", "mend tracking.uri: another program answers there")
    return Diagnosis("fail", f"{place}: {status}: {facts['said']}", "read the server's log")


def _server(uri: str) -> dict[str, Any]:
    import requests

    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    facts: dict[str, Any] = {"place": f"{parts.scheme}://{host}{parts.path}", "host": host, "status": None}
    headers, user = {}, os.environ.get("MLFLOW_TRACKING_USERNAME")
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    try:
        answer = requests.post(
            f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search",
            json={"max_results": 1},
            headers=headers,
            auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
            timeout=ANSWER_SECONDS,
            verify=os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") != "true",
        )
    except (requests.RequestException, ValueError) as error:
        return {**facts, "said": _cause(error), "answers": False}
    return {**facts, "status": answer.status_code, "said": " ".join(answer.text[:200].split())}


def _cause(error: BaseException) -> str:
    """What the error came of; the error itself may name the whole URI."""
    cause = first_cause(error)
    if isinstance(cause, TimeoutError):
        return f"timed out after {ANSWER_SECONDS:.0f} s"
    return getattr(cause, "strerror", None) or type(cause).__name__


def _database_file(file: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"place": f"sqlite:///{file}", "problem": None, "mend": ""}
    if not file.exists():
        folder = next(path for path in file.absolute().parents if path.is_dir())
        if os.access(folder, os.W_OK):
            return {**facts, "place": f"sqlite:///{file} will be made"}
        return {**facts, "problem": f"{folder}: not writable", "mend": "name another file in tracking.uri"}
    try:
        # Not mode=ro: SQLite must first undo what a writer has left that was killed in a transaction.
        there = f"{file.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(there, uri=True, timeout=ANSWER_SECONDS)) as database:
            database.execute("select name from sqlite_master limit 1").fetchone()
    except sqlite3.Error as error:
        return {**facts, "problem": f"{file}: {error}", "mend": "name another file in tracking.uri"}
    if not os.access(file, os.W_OK):
        return {**facts, "problem": f"{file}: not writable", "mend": f"chmod u+w {file}, or name another file"}
    return facts


def _database(uri: str, kind: str, client: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"place": f"a database of {kind}", "problem": None, "mend": ""}
    if kind not in PORTS:
        return {**facts, "place": f"{kind}: not looked at"}
    module = client or CLIENTS[kind]
    if find_spec(module) is None:
        return {**facts, "problem": f"{kind}: Python's package {module} is missing", "mend": f"install {module}"}
    try:
        parts = urlsplit(uri)
        place = (parts.hostname or "localhost", parts.port or PORTS[kind])
        with socket.create_connection(place, ANSWER_SECONDS):
            return {**facts, "place": f"{kind} listens at {place[0]}:{place[1]}"}
    except (OSError, ValueError) as error:
        return {
            **facts,
            "problem": f"{kind}: {_cause(error)}",
            "mend": "start the database, or mend tracking.uri",
            # Parameters may name another place, such as a socket or several hosts.
            "answers": isinstance(error, ValueError) or urlsplit(uri).hostname is None,
        }
