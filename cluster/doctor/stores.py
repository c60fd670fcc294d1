"""Checks the disks, the storage, the model and the data, and MLflow. Each check can hang."""

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
from cluster.doctor.contract import DRIVER, Check, Diagnosis, Facts, Needs, Site, fail, ok, warn
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
_HUB = (
    "the hub, a proxy or a network drive does not answer: check HTTPS_PROXY, HF_ENDPOINT and the mounts there, or put "
    "the model in a folder"
)
_MOUNT = "a drive does not answer: check the mounts"
_STORAGE = "the storage does not answer: check its mount, or the credentials and the network"
_MLFLOW = "MLflow or a proxy before it does not answer: check the address, HTTP_PROXY and NO_PROXY"
"""The ways out if a check hangs."""


def disk(site: Site) -> Facts:
    """Reads the room in the cache, in the folder for temporary files, and in the driver's work folder."""
    places = {"cache": devices.cache(), "temporary": Path(tempfile.gettempdir())}
    if site.needs.work_folder is not None and site.declared_gpus is None:
        places["storage"] = Path(site.needs.work_folder)
    found = {}
    for name, place in places.items():
        usage = shutil.disk_usage(_nearest(place))
        found[name] = {"path": str(place), "free": usage.free, "used": usage.used / max(1, usage.used + usage.free)}
    return found


def _nearest(place: Path) -> Path:
    """Returns the folder itself, or its nearest parent that exists."""
    return next(path for path in (place, *place.parents) if path.is_dir())


def judge_disk(facts: Facts, site: Site) -> Diagnosis:
    """Fails if the storage has less room than budget.disk or the plan; warns if little is left elsewhere."""
    rooms = {name: facts[name] for name in ("cache", "temporary", "storage") if name in facts}
    shown = ", ".join(f"{room['free'] / 1e9:.1f} GB free in {room['path']}" for room in rooms.values())
    needs, storage, temporary = site.needs, rooms.get("storage"), rooms["temporary"]
    what, wanted, way_out = "the plan", needs.disk_bytes, "set budget.disk"
    if needs.disk_budget is not None:
        what, wanted, way_out = "budget.disk", needs.disk_budget, "lower budget.disk"
    if storage is not None and wanted is not None and wanted > storage["free"]:
        return fail(
            f"{what} may take {wanted / 1e9:.1f} GB; {shown}",
            f"free room in {storage['path']}, {way_out}, or name another storage",
        )
    if temporary["used"] >= RAY_STOPS:
        return warn(
            f"the disk of {temporary['path']} is {temporary['used']:.0%} full; {shown}",
            "free some room: Ray writes no objects to a disk that is 95% full",
        )
    if rooms["cache"]["free"] < CACHE_BYTES and site.node != DRIVER:
        return warn(shown, "free room for bases, or set QSWEEP_CACHE and HF_HOME to a larger disk")
    return ok(shown)


def storage(site: Site) -> Facts:
    """Writes and locks a file where the sweep's folder would be made; uses an object store as a mirror does."""
    place = site.needs.storage or ""
    if "://" in place:
        return {"place": place, **_try_store(place)}
    folder = _nearest(Path(place))
    facts: dict[str, Any] = {"place": str(folder)}
    try:
        with tempfile.NamedTemporaryFile(prefix=f"{OBJECTS}-", dir=folder) as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
            return {**facts, "no_locks": _lock(file.fileno())}
    except OSError as error:
        return {**facts, "error": f"{error.strerror or error}"}


def judge_storage(facts: Facts, _site: Site) -> Diagnosis:
    """Fails if the driver cannot write or lock."""
    place = facts["place"]
    if facts.get("error") is not None:
        mend = f"let this user write to {place}, or name another storage"
        if "://" in place:
            mend = "mend the bucket, the credentials or AWS_REGION (docs/cluster.md), or name another storage"
        return fail(f"{place}: cannot be written: {facts['error']}", mend)
    if facts.get("no_locks") is not None:
        return fail(
            f"{place}: its file system has no locks ({facts['no_locks']}), which let one process drive a sweep",
            "mount it with flock, or name another storage",
        )
    return ok(f"{place}: {'used as by a mirror' if '://' in place else 'written and locked'}")


def _lock(file: int) -> str | None:
    """Locks an open file as a sweep's driver does; returns why that fails, None if it does not."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _try_store(uri: str) -> dict[str, Any]:
    """Uses an object as a mirror does. Credentials come from the environment, as for the sweep itself."""
    from obstore.exceptions import BaseError

    try:
        return {"error": _try_object(object_store.opened(uri))}
    except (BaseError, OSError, ValueError) as error:
        return {"error": object_store.reason(error, uri)}


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


def model_and_data(site: Site) -> Facts:
    """Has the trainable check the local files, and then ask the hub."""
    base = site.needs.base
    assert base is not None
    trainable, looked_up = catalogue.find(base.trainable), LookedUp()
    problems = catalogue.check(trainable, base)
    if not problems:
        looked_up = trainable.look_up(base, devices.cache())
    return {
        "problems": [*problems, *looked_up.problems],
        "unreachable": list(looked_up.unreachable),
        "notices": list(looked_up.notices),
    }


def judge_model_and_data(facts: Facts, site: Site) -> Diagnosis:
    """Fails if a file is missing or the hub is out of reach; warns of the trainable's notices."""
    if facts["problems"]:
        return fail("; ".join(facts["problems"]), "put it at the same path on each node, or mend the file")
    if facts["unreachable"]:
        return fail("; ".join(facts["unreachable"]), _HUB)
    base, named = site.needs.base, []
    if base is not None and base.model is not None:
        named.append(f"model {base.model.source}")
    if base is not None and base.data is not None:
        named.append(f"data {base.data.train}")
    if not named:
        return ok("the sweep reads no model and no data")
    if facts["notices"]:
        return Diagnosis("warn", "; ".join(facts["notices"]))
    return ok(f"{' and '.join(named)}: reached")


def mlflow(site: Site) -> Facts:
    """Asks the tracking URI. The facts leave the URI out: it may hold a password.

    A server has a `status`, None if nothing answers; a database has the `problem`, and how to `mend` it. `answers` is
    False if nothing answers at the place that the URI names.
    """
    uri = site.needs.tracking_uri or ""
    if uri.startswith("sqlite:///"):
        return _database_file(Path(uri.removeprefix("sqlite:///").partition("?")[0]))
    if uri.startswith(("http://", "https://")):
        return _server(uri)
    return _database(uri)


def nothing_answers(uri: str) -> Diagnosis | None:
    """Returns the problem of a tracking URI at whose place nothing answers; None if something answers, or may."""
    site = Site(needs=Needs(tracking_uri=uri))
    facts = mlflow(site)
    return None if facts.get("answers", True) else judge_mlflow(facts, site)


def judge_mlflow(facts: Facts, _site: Site) -> Diagnosis:
    """Fails if runs could not be written there."""
    place = facts["place"]
    if "status" not in facts:
        return ok(place) if facts["problem"] is None else fail(facts["problem"], facts["mend"])
    status, host, said = facts["status"], facts["host"], facts["said"]
    if status is None:
        return fail(f"{place}: no answer: {said}", "start the server, or mend tracking.uri, HTTP_PROXY or NO_PROXY")
    if status == 200:
        return ok(f"{place} answers, and accepts the name {host}")
    if status == 403 and REFUSED_HOST in said:
        return fail(
            f"{place}: 403 {REFUSED_HOST}: the server does not accept the name {host}",
            f"start it with --allowed-hosts '{host},localhost:*,127.0.0.1:*' (MLFLOW_SERVER_ALLOWED_HOSTS)",
        )
    if status in (401, 403):
        return fail(
            f"{place}: {status}: the server does not let this user in",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) for the driver",
        )
    if status == 404:
        return fail(f"{place}: 404: no MLflow server", "mend tracking.uri: another program answers there")
    return fail(f"{place}: {status}: {said}", "read the server's log")


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
            timeout=timeouts.MLFLOW_ANSWER_SECONDS,
            verify=os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") != "true",
        )
    except (requests.RequestException, ValueError) as error:
        return {**facts, "said": _cause(error), "answers": False}
    return {**facts, "status": answer.status_code, "said": " ".join(answer.text[:200].split())}


def _cause(error: BaseException) -> str:
    """Returns the error's first cause: the error itself may name the whole URI."""
    cause = first_cause(error)
    if isinstance(cause, TimeoutError):
        return f"timed out after {timeouts.MLFLOW_ANSWER_SECONDS:.0f} s"
    return getattr(cause, "strerror", None) or type(cause).__name__


def _database_file(file: Path) -> dict[str, Any]:
    def wrong(problem: object, mend: str = "name another file in tracking.uri") -> dict[str, Any]:
        return {"place": str(file), "problem": f"{problem}", "mend": mend}

    if not file.exists():
        folder = _nearest(file.absolute().parent)
        if os.access(folder, os.W_OK):
            return {"place": f"sqlite:///{file} will be made", "problem": None}
        return wrong(f"{folder}: not writable")
    try:
        # Not mode=ro: SQLite must first undo the writes of a process that was killed in a transaction.
        there = f"{file.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(there, uri=True, timeout=timeouts.MLFLOW_ANSWER_SECONDS)) as database:
            database.execute("select name from sqlite_master limit 1").fetchone()
    except sqlite3.Error as error:
        return wrong(f"{file}: {error}")
    if not os.access(file, os.W_OK):
        return wrong(f"{file}: not writable", f"chmod u+w {file}, or name another file")
    return {"place": f"sqlite:///{file}", "problem": None}


def _database(uri: str) -> dict[str, Any]:
    kind, _, client = uri.partition("://")[0].partition("+")
    if kind not in PORTS:
        return {"place": f"{kind}: not looked at", "problem": None}
    module, facts = client or CLIENTS[kind], {"place": f"a database of {kind}"}
    if find_spec(module) is None:
        return {**facts, "problem": f"{kind}: Python's package {module} is missing", "mend": f"install {module}"}
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "localhost", parts.port or PORTS[kind]
        with socket.create_connection((host, port), timeouts.MLFLOW_ANSWER_SECONDS):
            return {"place": f"{kind} listens at {host}:{port}", "problem": None}
    except (OSError, ValueError) as error:
        return {
            **facts,
            "problem": f"{kind}: {_cause(error)}",
            "mend": "start the database, or mend tracking.uri",
            # Parameters may name another place, such as a socket or several hosts.
            "answers": isinstance(error, ValueError) or urlsplit(uri).hostname is None,
        }


CHECKS = (
    Check("disk", "both", disk, judge_disk, _MOUNT),
    Check("storage", "driver", storage, judge_storage, _STORAGE, needs_file=True),
    Check(
        "model_and_data",
        "nodes",
        model_and_data,
        judge_model_and_data,
        _HUB,
        timeouts.DOCTOR_HUB_SECONDS,
        needs_file=True,
    ),
    Check("mlflow", "driver", mlflow, judge_mlflow, _MLFLOW, needs_file=True),
)
