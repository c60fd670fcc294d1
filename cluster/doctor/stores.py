"""Checks the disks, the storage, the model and the data, and MLflow."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sqlite3
import tempfile
import uuid
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster import devices, object_store, timeouts
from cluster.doctor.contract import DRIVER, CheckResult, Site
from cluster.errors import first_cause
from trainables import catalogue
from trainables.contract import LookedUp

CACHE_BYTES = 5 * 10**9
"""Least free room in the cache: a base that has to be downloaded and quantised may not fit into less."""
RAY_STOPS = 0.95
"""Ray writes no more objects to a disk that is full to this share (`local_fs_capacity_threshold`, 2.60)."""
OBJECTS = ".qsweep-doctor"
"""The folder of the doctor's objects on an object store, and the prefix of its file in a storage on disk."""
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
CLIENTS = {"postgresql": "psycopg2", "mysql": "MySQLdb", "mssql": "pyodbc"}
"""Packages that SQLAlchemy 2.0 uses for a URI that names no client."""
REFUSED_HOST = "Invalid Host header"
"""MLflow's refusal (server/security_utils.py, 3.17.2). MLflow answers /health for any name: another path is asked."""
HUB = (
    "the hub, a proxy or a network drive does not answer: check HTTPS_PROXY, HF_ENDPOINT and the mounts there, or put "
    "the model in a folder"
)
"""The way out if no model or data comes."""


def disk(site: Site) -> CheckResult:
    """Fails if the storage has less room than budget.disk or the plan; warns if little is left elsewhere.

    The cache and the folder for temporary files are looked at everywhere, the work folder where the driver runs.
    """
    needs, places = site.needs, [devices.cache(), Path(tempfile.gettempdir())]
    if needs.work_folder is not None and site.declared_gpus is None:
        places.append(Path(needs.work_folder))
    rooms = [(place, shutil.disk_usage(_nearest(place))) for place in places]
    shown = ", ".join(f"{room.free / 1e9:.1f} GB free in {place}" for place, room in rooms)
    (_, cache), (temporary, used), *storage = rooms
    what, wanted, way_out = "the plan", needs.disk_bytes, "set budget.disk"
    if needs.disk_budget is not None:
        what, wanted, way_out = "budget.disk", needs.disk_budget, "lower budget.disk"
    if storage and wanted is not None and wanted > storage[0][1].free:
        mend = f"free room in {storage[0][0]}, {way_out}, or name another storage"
        return CheckResult("fail", f"{what} may take {wanted / 1e9:.1f} GB; {shown}", mend)
    share = used.used / max(1, used.used + used.free)
    if share >= RAY_STOPS:
        mend = "free some room: Ray writes no objects to a disk that is 95% full"
        return CheckResult("warn", f"the disk of {temporary} is {share:.0%} full; {shown}", mend)
    if cache.free < CACHE_BYTES and site.node != DRIVER:
        return CheckResult("warn", shown, "free room for bases, or set QSWEEP_CACHE and HF_HOME to a larger disk")
    return CheckResult("ok", shown)


def _nearest(place: Path) -> Path:
    """Returns the folder itself, or its nearest parent that exists."""
    return next(path for path in (place, *place.parents) if path.is_dir())


def storage(site: Site) -> CheckResult:
    """Writes and locks a file where the sweep's folder would be made; uses an object store as a mirror does."""
    place = site.needs.storage or ""
    if "://" in place:
        problem = _try_store(place)
        mend = "mend the bucket, the credentials or AWS_REGION (docs/cluster.md), or name another storage"
        if problem is not None:
            return CheckResult("fail", f"{place}: cannot be written: {problem}", mend)
        return CheckResult("ok", f"{place}: used as by a mirror")
    folder = _nearest(Path(place))
    try:
        with tempfile.NamedTemporaryFile(prefix=f"{OBJECTS}-", dir=folder) as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                why = f"its file system has no locks ({error.strerror or error}), which let one process drive a sweep"
                return CheckResult("fail", f"{folder}: {why}", "mount it with flock, or name another storage")
    except OSError as error:
        mend = f"let this user write to {folder}, or name another storage"
        return CheckResult("fail", f"{folder}: cannot be written: {error.strerror or error}", mend)
    return CheckResult("ok", f"{folder}: written and locked")


def _try_store(uri: str) -> str | None:
    """Uses an object as a mirror does; returns what is wrong. Credentials come from the environment, as for a sweep."""
    from obstore.exceptions import BaseError

    try:
        return _try_object(object_store.opened(uri))
    except (BaseError, OSError, ValueError) as error:
        return object_store.reason(error, uri)


def _try_object(store: Any) -> str | None:
    """Writes under conditions, lists, reads and deletes; returns what is wrong with the answers, None if nothing is."""
    import obstore

    mark = uuid.uuid4().hex
    name = f"{OBJECTS}/{mark}"
    first = obstore.put(store, name, b"first", mode="create")
    try:
        before: Any = {key: first[key] for key in ("e_tag", "version") if first[key] is not None}
        if _is_written(store, name, b"other", "create"):
            return "it ignores the condition If-None-Match: two drivers could take one sweep"
        if not _is_written(store, name, mark.encode(), before):
            return "it refuses a write under the condition If-Match though nobody wrote in between"
        if _is_written(store, name, b"other", before):
            return "it ignores the condition If-Match: two drivers could take one sweep"
        if all(each["path"] != name for page in obstore.list(store, OBJECTS) for each in page):
            return "what was written is not in the list of objects"
        if bytes(obstore.get(store, name).bytes()) != mark.encode():
            return "what was read is not what was written"
    finally:
        obstore.delete(store, [name])
    return None


def _is_written(store: Any, name: str, content: bytes, mode: Any) -> bool:
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    try:
        obstore.put(store, name, content, mode=mode)
    except (AlreadyExistsError, PreconditionError):
        return False
    return True


def model_and_data(site: Site) -> CheckResult:
    """Has the trainable check the local files, and then ask the hub; warns of the trainable's notices."""
    base = site.needs.base
    assert base is not None
    trainable, looked_up = catalogue.find(base.trainable), LookedUp()
    problems = catalogue.check_base(trainable, base)
    if not problems:
        looked_up = trainable.look_up(base, devices.cache())
        problems = list(looked_up.problems)
    if problems:
        return CheckResult("fail", "; ".join(problems), "put it at the same path on each node, or mend the file")
    if looked_up.unreachable:
        return CheckResult("fail", "; ".join(looked_up.unreachable), HUB)
    if base.model is None and base.data is None:
        return CheckResult("ok", "the sweep reads no model and no data")
    if looked_up.notices:
        return CheckResult("warn", "; ".join(looked_up.notices))
    named = [] if base.model is None else [f"model {base.model.source}"]
    named += [] if base.data is None else [f"data {base.data.train}"]
    return CheckResult("ok", f"{' and '.join(named)}: reached")


def mlflow(site: Site) -> CheckResult:
    """Fails if runs could not be written at the tracking URI. The answer leaves the URI out: it may hold a password."""
    return _tracking(site.needs.tracking_uri or "")[0]


def nothing_answers(uri: str) -> CheckResult | None:
    """Returns the problem of a tracking URI at whose place nothing answers; None if something answers, or may."""
    answer, is_there = _tracking(uri)
    return None if is_there else answer


def _tracking(uri: str) -> tuple[CheckResult, bool]:
    """Asks the tracking URI; also returns whether something answers, or may, at the place that the URI names."""
    if uri.startswith("sqlite:///"):
        return _database_file(Path(uri.removeprefix("sqlite:///").partition("?")[0])), True
    return _server(uri) if uri.startswith(("http://", "https://")) else _database(uri)


def _server(uri: str) -> tuple[CheckResult, bool]:
    import requests

    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    place, headers, user = f"{parts.scheme}://{host}{parts.path}", {}, os.environ.get("MLFLOW_TRACKING_USERNAME")
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    try:
        answer = requests.post(
            f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search",
            json={"max_results": 1},
            headers=headers,
            auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
            timeout=timeouts.MLFLOW_ANSWER_SECONDS,
            verify=os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") != "true",
        )
    except (requests.RequestException, ValueError) as error:
        mend = "start the server, or mend tracking.uri, HTTP_PROXY or NO_PROXY"
        return CheckResult("fail", f"{place}: no answer: {_cause(error)}", mend), False
    return _answered(place, host, answer.status_code, " ".join(answer.text[:200].split())), True


def _answered(place: str, host: str, status: int, said: str) -> CheckResult:
    """Judges what a server answers to a question that MLflow answers."""
    if status == 200:
        return CheckResult("ok", f"{place} answers, and accepts the name {host}")
    seen, mend = f"{status}: {said}", "read the server's log"
    if status == 403 and REFUSED_HOST in said:
        seen = f"403 {REFUSED_HOST}: the server does not accept the name {host}"
        mend = f"start it with --allowed-hosts '{host},localhost:*,127.0.0.1:*' (MLFLOW_SERVER_ALLOWED_HOSTS)"
    elif status in (401, 403):
        seen = f"{status}: the server does not let this user in"
        mend = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) for the driver"
    elif status == 404:
        seen, mend = "404: no MLflow server", "mend tracking.uri: another program answers there"
    return CheckResult("fail", f"{place}: {seen}", mend)


def _cause(error: BaseException) -> str:
    """Returns the error's first cause: the error itself may name the whole URI."""
    cause = first_cause(error)
    if isinstance(cause, TimeoutError):
        return f"timed out after {timeouts.MLFLOW_ANSWER_SECONDS:.0f} s"
    return getattr(cause, "strerror", None) or type(cause).__name__


def _database_file(file: Path) -> CheckResult:
    mend = "name another file in tracking.uri"
    if not file.exists():
        folder = _nearest(file.absolute().parent)
        if os.access(folder, os.W_OK):
            return CheckResult("ok", f"sqlite:///{file} will be made")
        return CheckResult("fail", f"{folder}: not writable", mend)
    try:
        # Not mode=ro: SQLite must first undo the writes of a process that was killed in a transaction.
        there = f"{file.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(there, uri=True, timeout=timeouts.MLFLOW_ANSWER_SECONDS)) as database:
            database.execute("select name from sqlite_master limit 1").fetchone()
    except sqlite3.Error as error:
        return CheckResult("fail", f"{file}: {error}", mend)
    if not os.access(file, os.W_OK):
        return CheckResult("fail", f"{file}: not writable", f"chmod u+w {file}, or name another file")
    return CheckResult("ok", f"sqlite:///{file}")


def _database(uri: str) -> tuple[CheckResult, bool]:
    kind, _, client = uri.partition("://")[0].partition("+")
    if kind not in PORTS:
        return CheckResult("ok", f"{kind}: not looked at"), True
    module = client or CLIENTS[kind]
    if find_spec(module) is None:
        return CheckResult("fail", f"{kind}: Python's package {module} is missing", f"install {module}"), True
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "localhost", parts.port or PORTS[kind]
        with socket.create_connection((host, port), timeouts.MLFLOW_ANSWER_SECONDS):
            return CheckResult("ok", f"{kind} listens at {host}:{port}"), True
    except (OSError, ValueError) as error:
        # Parameters may name another place, such as a socket or several hosts.
        may_answer = isinstance(error, ValueError) or urlsplit(uri).hostname is None
        return CheckResult("fail", f"{kind}: {_cause(error)}", "start the database, or mend tracking.uri"), may_answer
