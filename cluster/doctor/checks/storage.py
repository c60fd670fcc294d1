"""Whether the sweep's storage can be written, and which places see the same folder.

The driver makes a folder with a random name in it and writes a file; each node reads that and writes one of its own;
`collect` reads what has arrived and removes the folder. Nothing is written where that folder is not seen.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from cluster.doctor.contract import Asked, Diagnosis, Facts, Health

ON, NEEDS_FILE, TAKES_GPU = "both", True, False
SECONDS = 30.0
HUNG = "the storage does not answer: check its mount, or the credentials and the network"
PREFIX = ".qsweep-doctor-"
REQUEST_SECONDS = 10.0
ABANDONED_SECONDS = 3600.0
"""A folder of this age was left by a doctor that was killed."""


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
    """Fails when the driver cannot write; warns when a node does not see the driver's folder."""
    place = facts["place"]
    if facts.get("error") is not None:
        state: Health = "fail" if asked.declared_gpus is None else "warn"
        mend = f"let this user write to {place}, or name another storage"
        if "://" in place:
            mend = "make the bucket, set the credentials and AWS_REGION (docs/storage.md), or name another storage"
        return Diagnosis(state, f"{place}: cannot be written: {facts['error']}", mend)
    if facts.get("is_driver") is False:
        return Diagnosis("ok", f"{place}: only the driver writes there")
    if asked.declared_gpus is None:
        return Diagnosis("ok", f"{place}: written and read")
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


def _remove_abandoned(there: Path) -> None:
    for folder in there.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.lstat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _try_store(asked: Asked) -> dict[str, Any]:
    """Writes, reads and deletes an object. Credentials come from the environment, as for the sweep itself."""
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    assert asked.storage is not None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    options: Any = {
        "timeout": timedelta(seconds=REQUEST_SECONDS),
        "connect_timeout": timedelta(seconds=3),
        "allow_http": endpoint.startswith("http://"),
    }
    retries: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=REQUEST_SECONDS)}
    name, content = PREFIX + asked.mark, asked.mark.encode()
    try:
        store = from_url(asked.storage, client_options=options, retry_config=retries)
        obstore.put(store, name, content)
        same = bytes(obstore.get(store, name).bytes()) == content
        obstore.delete(store, [name])
        return {"error": None if same else "what was read is not what was written"}
    except (BaseError, OSError, ValueError) as error:
        if "NoSuchBucket" in str(error):
            return {"error": "there is no such bucket"}
        return {"error": next(iter(str(error).strip().splitlines()), type(error).__name__)}
