"""The part of a sweep's mailbox that machines outside the cluster reach: a job for each request would take too long.

A request goes into Ray's head service as a package, because packages are what the Jobs API takes, and the driver looks
for it there. The answer is a file in the log folder of the driver's node, because log files are what the dashboard
shows. Both ways go through the port of the dashboard and want its token, and neither needs a new process.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import ConnectionFailed, ServiceFailed, SubmissionFailed

if TYPE_CHECKING:
    from cluster.submission.jobs import Jobs

TURN_SECONDS = 0.5
"""Pause between two looks of the driver."""
WAITING_SECONDS = 0.1
"""The same while a request waits for its answer."""
KEPT_SECONDS = 60.0
"""How long an answer can be fetched."""
SERVICE_SECONDS = 5.0
"""How long Ray's head service may take for one answer."""
MOST_BYTES = 65_536
"""Size of a request."""
LISTENING = "listening"
"""The file that is there for as long as the driver listens."""
ANSWER_SECONDS = 30.0
"""How long to wait for the driver's answer, which usually comes within a second."""
ASKING_SECONDS = 0.2
_REQUEST_ID = re.compile(r"[0-9]{20}-[0-9a-f]{8}")

Answer = Callable[[str, bytes], bytes | None]
"""The answer to a request, by its id and its content; None while there is none yet."""


def _folder(sweep_id: str) -> str:
    """The folder for answers, in the log folder of a node."""
    return f"qsweep/{hashlib.sha256(sweep_id.encode()).hexdigest()[:16]}"


def _package(sweep_id: str, request_id: str) -> str:
    """The name of the package that is a request."""
    return f"{_folder(sweep_id).replace('/', '-')}-{request_id}.zip"


class RemoteMailbox:
    """The driver's side."""

    def __init__(self, sweep_id: str, answer: Answer) -> None:
        """Opens nothing; `open` does.

        Args:
            answer: is called again and again, in a thread of its own, until it returns an answer. Raises nothing.
        """
        self._prefix = f"gcs://{_package(sweep_id, '').removesuffix('.zip')}".encode()
        self._name = _folder(sweep_id)
        self._answer = answer
        self._is_over = threading.Event()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Answers requests for as long as the block runs, in which this process is connected to Ray.

        Where that cannot be done, requests come as jobs: it is no reason to end a sweep.
        """
        from ray._private import worker

        node = worker._global_node
        if node is None:
            yield
            return
        folder = Path(node.get_logs_dir_path()) / self._name
        listener = threading.Thread(target=self._listen, args=(folder,), name="remote mailbox", daemon=True)
        with suppress(OSError):
            _remove_old(folder.parent)
        with suppress(OSError):
            folder.mkdir(0o700, parents=True, exist_ok=True)
            # Everybody may write into Ray's log folder: another user may have made these before.
            if all(place.lstat().st_uid == os.getuid() for place in (folder, folder.parent)):
                _write(folder / LISTENING, b"")
                listener.start()
        try:
            yield
        finally:
            self._is_over.set()
            if listener.ident is not None:
                # Before Ray ends, which no other thread may use meanwhile.
                listener.join(2 * SERVICE_SECONDS)
            # The answers stay: the last of them may still be fetched.
            with suppress(OSError):
                (folder / LISTENING).unlink(missing_ok=True)

    def _listen(self, folder: Path) -> None:
        seconds, is_over = TURN_SECONDS, False
        while not is_over:
            is_over = self._is_over.wait(seconds)
            seconds = TURN_SECONDS
            # Ray's head service may be away for a while, or the disk full: then the next turn is the next try.
            with suppress(Exception):
                seconds = TURN_SECONDS if self._answer_all(folder) else WAITING_SECONDS

    def _answer_all(self, folder: Path) -> bool:
        """Answers what can be answered now, and removes answers that are old; False while a request waits."""
        from ray.experimental import internal_kv

        service, is_all = internal_kv.internal_kv_get_gcs_client(), True
        for key in sorted(service.internal_kv_keys(self._prefix, None, SERVICE_SECONDS)):
            request_id = key.removeprefix(self._prefix).removesuffix(b".zip").decode(errors="replace")
            content = service.internal_kv_get(key, None, SERVICE_SECONDS)
            if content is not None and len(content) <= MOST_BYTES and _REQUEST_ID.fullmatch(request_id):
                answer = self._answer(request_id, content)
                if answer is None:
                    is_all = False
                    continue
                _write(folder / f"{request_id}.json", answer)
            service.internal_kv_del(key, False, None, SERVICE_SECONDS)
        for path in _old(folder):
            path.unlink()
        return is_all


def ask(
    jobs: Jobs, sweep_id: str, node: str, request_id: str, content: bytes, is_over: Callable[[], bool]
) -> str | None:
    """The driver's answer to a request; None when no driver listens there, and nothing was sent.

    Args:
        node: id of the node of its driver.
        request_id: twenty digits, a dash and eight letters or digits of a hexadecimal number; equal ones are one.
        is_over: waits a moment, and says whether to wait no longer.

    Raises:
        ConnectionFailed: it may have been taken, and no answer has come.
    """
    folder = _folder(sweep_id)
    try:
        if LISTENING not in jobs.files(node, folder):
            return None
    except (SubmissionFailed, ServiceFailed):  # this cluster shows no log files
        return None
    try:
        jobs.put(_package(sweep_id, request_id), content)
        there = frozenset({LISTENING})
        while LISTENING in there and not is_over():
            with suppress(ServiceFailed):  # a look that fails says nothing of the answer
                there = jobs.files(node, folder)
                if f"{request_id}.json" in there:
                    return jobs.file(node, f"{folder}/{request_id}.json")
        if LISTENING not in there:
            raise ConnectionFailed(f"{sweep_id}: its driver has stopped taking requests, and has not answered")
        raise ConnectionFailed(f"{sweep_id}: its driver has not answered within {ANSWER_SECONDS:.0f} s")
    except SubmissionFailed as error:
        raise ConnectionFailed(str(error)) from None


def _old(folder: Path) -> list[Path]:
    """Answers that nobody waits for any more."""
    return [path for path in folder.glob("*.json") if time.time() - path.stat().st_mtime > KEPT_SECONDS]


def _remove_old(place: Path) -> None:
    """Removes answers of sweeps that have ended."""
    for folder in place.glob("*"):
        for path in _old(folder):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # it still holds something
            folder.rmdir()


def _write(path: Path, content: bytes) -> None:
    """Writes a file that appears whole, and that only this user can read."""
    draft = path.with_name(f".{path.name}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    draft.rename(path)
