"""Whether the sweep's storage can be written, and which places see the same folder.

The driver makes a folder with a random name in it, and writes and locks a file; each node reads that and writes one of
its own; `collect` reads what has arrived and removes the folder. Nothing is written where that folder is not seen.

On an object store the driver does what the mirror of a sweep does there: it creates, replaces, lists, reads and deletes
an object, and sees whether the store refuses the writes that it must refuse.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster import object_store
from cluster.doctor.contract import Asked, Diagnosis, Facts, Health

ON, NEEDS_FILE, TAKES_GPU = "both", True, False
SECONDS = 30.0
HUNG = "the storage does not answer: check its mount, or the credentials and the network"
PREFIX = ".qsweep-doctor-"
OBJECTS = ".qsweep-doctor"
"""The folder of the doctor's objects on an object store."""
ABANDONED_SECONDS = 3600.0
"""A folder or an object of this age was left by a doctor that was killed."""


def look(asked: Asked) -> Facts:
    """Writes and reads: on the driver it begins the exchange, on a node it takes part."""
    assert asked.storage is not None
    if "://" in asked.storage:
        return {"place": asked.storage, **(_try_store(asked) if asked.declared_gpus is None else {"is_driver": False})}
    there = _nearest(Path(asked.storage))
    folder = there / (PREFIX + asked.mark)
    facts: dict[str, Any] = {"place": str(there), "error": None}
    try:
        if asked.declared_gpus is not None:
            facts["place"] = asked.storage
            sees = (folder / "driver").is_file() and (folder / "driver").read_text() == asked.mark
            if sees:
                _write(folder / _file(asked.node), asked.mark)
            return {**facts, "sees": sees}
        _remove_abandoned(there)
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)  # nodes may run as somebody else
        _write(folder / "driver", asked.mark)
        facts["no_locks"] = _lock(folder / "driver")
        return {**facts, "sees": (folder / "driver").read_text() == asked.mark}
    except OSError as error:
        return {**facts, "error": f"{error.strerror or error}", "sees": False}


def collect(asked: Asked) -> Facts:
    """The files that have arrived from nodes, after all of them have looked. Removes the folder."""
    assert asked.storage is not None
    if "://" in asked.storage:
        return {"arrived": []}
    folder = _nearest(Path(asked.storage)) / (PREFIX + asked.mark)
    arrived = []
    with suppress(OSError):
        arrived = [file.name for file in folder.iterdir() if file.read_text() == asked.mark]
    shutil.rmtree(folder, ignore_errors=True)
    return {"arrived": arrived}


def judge(facts: Facts, driver: Facts, asked: Asked) -> Diagnosis:
    """Fails when the driver cannot write or lock; warns when a node does not see the driver's folder."""
    place = facts["place"]
    if facts.get("error") is not None:
        state: Health = "fail" if asked.declared_gpus is None else "warn"
        mend = f"let this user write to {place}, or name another storage"
        if "://" in place:
            mend = "mend the bucket, the credentials or AWS_REGION (docs/storage.md), or name another storage"
        return Diagnosis(state, f"{place}: cannot be written: {facts['error']}", mend)
    if facts.get("no_locks") is not None:
        return Diagnosis(
            "fail",
            f"{place}: its file system has no locks ({facts['no_locks']}), which let one process drive a sweep",
            "mount it with flock, or name another storage",
        )
    if facts.get("is_driver") is False:
        return Diagnosis("ok", f"{place}: only the driver writes there")
    if asked.declared_gpus is None:
        return Diagnosis("ok", f"{place}: {facts.get('tried', 'written and read')}")
    if not facts["sees"]:
        return Diagnosis(
            "warn",
            f"{place} is not the driver's folder here",
            "the driver alone writes there, so a sweep runs; mount it here too to resume a sweep on this node",
        )
    if _file(asked.node) not in driver.get("arrived", []):
        return Diagnosis(
            "warn",
            f"{place}: the driver has not seen what was written here",
            "check how the drive is mounted and cached",
        )
    return Diagnosis("ok", f"{place}: this node and the driver read what the other one wrote")


def _nearest(storage: Path) -> Path:
    """The storage, or the folder in which a sweep would make it."""
    return next(path for path in (storage, *storage.parents) if path.is_dir())


def _file(node: str) -> str:
    return "node-" + "".join(letter if letter.isalnum() else "-" for letter in node)


def _write(file: Path, text: str) -> None:
    with file.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _lock(file: Path) -> str | None:
    """Locks a file as a sweep's driver does; why that fails, None when it does not."""
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.strerror or str(error)
    return None


def _remove_abandoned(there: Path) -> None:
    for folder in there.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.lstat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _try_store(asked: Asked) -> dict[str, Any]:
    """Does with an object what a mirror does. Credentials come from the environment, as for the sweep itself."""
    from obstore.exceptions import BaseError

    assert asked.storage is not None
    try:
        return {"error": _try_object(object_store.opened(asked.storage), asked.mark), "tried": "used as by a mirror"}
    except (BaseError, OSError, ValueError) as error:
        return {"error": object_store.reason(error, asked.storage)}


def _try_object(store: Any, mark: str) -> str | None:
    """Writes under conditions, lists, reads and deletes; what is wrong with the answers, None when nothing is."""
    import obstore

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
        listed = [each for page in obstore.list(store, OBJECTS) for each in page]
        if bytes(obstore.get(store, name).bytes()) != mark.encode():
            return "what was read is not what was written"
    finally:
        obstore.delete(store, [name])
    # By the store's own clock.
    now = max((each["last_modified"] for each in listed if each["path"] == name), default=None)
    if now is None:
        return "what was written is not in the list of objects"
    old = [each["path"] for each in listed if (now - each["last_modified"]).total_seconds() > ABANDONED_SECONDS]
    if old:
        obstore.delete(store, old)
    return None


def _is_written(store: Any, name: str, content: bytes, mode: Any) -> bool:
    """Whether a write under a condition goes through; False when the condition does not hold."""
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    try:
        obstore.put(store, name, content, mode=mode)
    except (AlreadyExistsError, PreconditionError):
        return False
    return True
