"""Claims the mirror of a new sweep, keeps the mirror of a running sweep, and notes the lease in the sweep's folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sweeps.config.number_words import counted
from sweeps.config.uris import is_object_store, work_folder
from sweeps.errors import StorageError
from sweeps.mirror import lease, timeouts
from sweeps.mirror.lease import Fenced, HeldLease, Lease
from sweeps.mirror.manifest import read_manifest
from sweeps.mirror.sending import Sender
from sweeps.mirror.store import Store
from sweeps.record import folder as folders
from sweeps.record.delivery import Delivery, Over, Pace
from sweeps.record.folder import MIRROR_NOTE, SweepFolder, writing
from sweeps.record.journal import Journal
from sweeps.record.whole_files import write_whole
from sweeps.report.result import MirrorEnd
from trainables.specs import Spec

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Note(Spec):
    """The driver of a sweep's folder that held the mirror's lease last."""

    holder: str = ""
    token: int = 0
    boot: str = ""
    """Id of the machine's last start; see the function `boot`."""

    @property
    def dead_holder(self) -> str | None:
        """Returns the holder, if it was a process of this machine since its last start; else None.

        The caller has the lock of the folder, so this process is dead.
        """
        return self.holder if self.holder and self.boot == boot() else None


def noted(folder: SweepFolder) -> Note:
    """Returns the note in a folder; an empty note if none can be read."""
    try:
        return Note.model_validate_json((folder.path / MIRROR_NOTE).read_bytes())
    except (OSError, ValidationError):
        return Note()


def note(folder: SweepFolder, held: Lease) -> None:
    """Notes that a driver of this folder holds the lease. Raises `StorageError` if the folder cannot be written."""
    told = Note(holder=held.holder, token=held.token, boot=boot())
    with writing(folder.path / MIRROR_NOTE):
        write_whole(folder.path / MIRROR_NOTE, told.model_dump_json().encode())


def boot() -> str:
    """Returns an id of this machine that changes with each start; empty if the system has none."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def create(storage: str, name: str, document: Mapping[str, Any]) -> SweepFolder:
    """Makes the folder of a new sweep, as `folders.create` does. Claims its name on an object store, too.

    Raises `StorageError` if the folder cannot be made, or the object store does not answer or refuses.
    """
    if not is_object_store(storage):
        return folders.create(Path(storage), name, document)
    claimed: list[HeldLease] = []

    def claim(taken: str) -> Mapping[str, Any] | None:
        uri = f"{storage.rstrip('/')}/{taken}"
        store = Store(uri)
        # A sweep keeps its name even if somebody has deleted its lease.
        held = lease.claim(store) if read_manifest(store) is None else None
        if held is None:
            return None
        claimed.append(held)
        return {"mirror": uri}

    folder = folders.create(work_folder(storage), name, document, claim)
    note(folder, claimed[-1].lease)
    return folder


def mirror_with(storage: str, name: str, sweep_id: str) -> str | None:
    """Returns the URI of the mirror of a sweep that was launched with this storage and name; None if there is none.

    Raises `StorageError` if the object store does not answer or refuses.
    """
    if not is_object_store(storage):
        return None
    numbered = re.compile(rf"{re.escape(name)}(-\d+)?")
    uris = [f"{storage.rstrip('/')}/{each}" for each in Store(storage).folders() if numbered.fullmatch(each)]
    found = ((uri, read_manifest(Store(uri))) for uri in uris)
    return next((uri for uri, each in found if each is not None and each[0].sweep_id == sweep_id), None)


class Mirror:
    """Keeps the mirror of a sweep that this process drives, as long as its lease is held. Training never waits for it.

    Changes that the store does not take are sent later, as the folder is then.
    """

    def __init__(
        self,
        store: Store,
        held: HeldLease,
        folder: SweepFolder,
        journal: Journal,
        sweep_id: str,
        say: Callable[[str], None],
    ) -> None:
        """Sends nothing yet."""
        self._uri, self._held, self._journal, self._say = store.uri, held, journal, say
        self._sender = Sender(store, held, folder, journal, sweep_id)
        every, longest = timeouts.EVERY_SECONDS, timeouts.LONGEST_PAUSE_SECONDS
        self._delivery = Delivery(
            "mirror", self._follow, self._failed, Pace(every, every, longest, timeouts.PATIENCE_SECONDS)
        )
        self._has_trouble = False
        self._has_left = False
        """Whether the driver has stopped waiting: the thread then says nothing, and ends at an error."""

    @property
    def is_lost(self) -> bool:
        """Tells whether another driver has taken the sweep over."""
        return self._held.lost is not None

    def start(self) -> None:
        """Begins to send."""
        self._delivery.start()

    def drain(self, seconds: float, is_leaving: Callable[[], bool]) -> MirrorEnd:
        """Waits until all is sent, `seconds` are over, or the caller leaves; returns how far the mirror came."""
        if not self.is_lost:
            self._wait(seconds, is_leaving)
        behind = None if self.is_lost or self._delivery.is_done else self._behind()
        return MirrorEnd(self._uri, behind, self._held.lost, self._delivery.is_busy)

    def leave(self) -> None:
        """Waits up to `PATIENCE_SECONDS` for the last changes. The thread ends when all is sent, or at an error."""
        self._wait(timeouts.PATIENCE_SECONDS, lambda: False)
        self._has_left = True

    def _wait(self, seconds: float, is_leaving: Callable[[], bool]) -> None:
        wait = f"mirror: waiting up to {seconds:.0f} s for {self._uri}; Ctrl-C leaves without it"
        self._delivery.drain(seconds, is_leaving, lambda: self._say(wait))

    def _behind(self) -> str:
        """Says what the mirror lacks."""
        log_bytes = max(0, self._journal.log.length - self._sender.manifest.log_bytes)
        trials = len(self._sender.lacking())
        lacks = [f"{log_bytes} bytes of the event log"] if log_bytes else []
        lacks += [f"files of {counted(trials, 'trial')}"] if trials else []
        return " and ".join(lacks) or "the last changes of its small files"

    def _follow(self) -> None:
        try:
            self._sender.send()
        except Fenced:
            raise Over from None
        if self._has_trouble:
            self._say(f"mirror: {self._uri} is back, and holds everything")
        self._has_trouble = False

    def _failed(self, error: Exception) -> None:
        if self._is_over():
            raise Over
        if not self._has_trouble:
            told = str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
            self._say(f"mirror: {told}; training goes on, and the mirror follows later")
        self._has_trouble = True

    def _is_over(self) -> bool:
        """Tells whether the driver has left, or the folder is gone: the sweep then ends itself, and says why."""
        try:
            return self._has_left or not self._journal.log.is_in_place()
        except ValueError:
            return True  # The log is closed.


@contextmanager
def mirrored(
    folder: SweepFolder, journal: Journal, sweep_id: str, say: Callable[[str], None], end: Callable[[str], None]
) -> Iterator[Mirror | None]:
    """Holds the lease of a sweep's mirror and keeps the mirror while the block runs; yields None without a mirror.

    Args:
        folder: the sweep's folder, which is locked.
        end: ends the sweep in order. Called in another thread, if another driver has taken over.

    Raises:
        StorageError: another driver holds the lease, the sweep has gone on elsewhere, or the store does not answer.
    """
    uri = folder.mirror()
    if uri is None:
        yield None
        return
    store = Store(uri)
    held = _take(store, folder, sweep_id, say)
    mirror = Mirror(store, held, folder, journal, sweep_id, say)
    held.keep(end)
    mirror.start()
    try:
        yield mirror
    finally:
        mirror.leave()
        held.release()


def _take(store: Store, folder: SweepFolder, sweep_id: str, say: Callable[[str], None]) -> HeldLease:
    known = noted(folder)
    _refuse_older(store, folder, sweep_id, known.token)
    held = lease.take(store, say, known.dead_holder, known.token)
    try:
        # Again, because the sweep may have gone on elsewhere during the wait.
        _refuse_older(store, folder, sweep_id, known.token)
        note(folder, held.lease)
    except BaseException:
        held.release()
        raise
    return held


def _refuse_older(store: Store, folder: SweepFolder, sweep_id: str, token: int) -> None:
    """Refuses a folder if its mirror holds another sweep, or if another driver went on with the mirror."""
    found = read_manifest(store)
    if found is not None and found[0].sweep_id != sweep_id:
        raise StorageError(
            f"{store.uri}: holds another sweep, {found[0].sweep_id}, and not {sweep_id} of {folder.path}: somebody "
            "replaced it; move it away, and the mirror is made anew"
        )
    if found is not None and found[0].token > token:
        raise StorageError(
            f"{folder.path}: the sweep has gone on elsewhere since, and this folder is behind {store.uri}: go on with "
            f"qsweep resume {store.uri}"
        )
