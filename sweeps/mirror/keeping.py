"""Keeps the mirror of a sweep: claims it for a new sweep, follows a running one, and says how far it is behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sweeps.config.number_words import counted
from sweeps.config.uris import is_object_store, work_folder
from sweeps.errors import StorageError
from sweeps.mirror import timeouts
from sweeps.mirror.manifest import Fenced, Manifest, OwnManifest, read_manifest, signed, write_manifest
from sweeps.mirror.sending import Sender
from sweeps.mirror.store import Conflict, Store
from sweeps.record import folder as folders
from sweeps.record.delivery import Delivery, Over, RetryPace
from sweeps.record.folder import MIRROR_NOTE, SweepFolder, writing
from sweeps.record.journal import Journal
from sweeps.record.whole_files import write_whole
from sweeps.report.result import MirrorEnd
from trainables.specs import Spec


class Note(Spec):
    """The last driver of a sweep's folder. The folder's lock tells whether that driver lives."""

    driver: str = ""
    before: str = ""
    """The driver whose manifest the last one replaces, unless it was killed before that."""

    def wrote(self, manifest: Manifest) -> bool:
        """Tells whether a driver of this folder was the last to write the mirror: else the folder is behind."""
        return manifest.driver in (self.driver, self.before)


def noted(folder: SweepFolder) -> Note:
    """Returns the note in a folder; an empty note if none can be read."""
    try:
        return Note.model_validate_json((folder.path / MIRROR_NOTE).read_bytes())
    except (OSError, ValidationError):
        return Note()


def note(folder: SweepFolder, driver: str, before: str = "") -> None:
    """Notes the driver of a folder. Raises `StorageError` if the folder cannot be written."""
    with writing(folder.path / MIRROR_NOTE):
        write_whole(folder.path / MIRROR_NOTE, Note(driver=driver, before=before).model_dump_json().encode())


def create(storage: str, name: str, document: Mapping[str, Any]) -> SweepFolder:
    """Makes the folder of a new sweep, as `folders.create` does. Claims its name on an object store, too.

    Raises `StorageError` if the folder cannot be made, or the object store does not answer or refuses.
    """
    if not is_object_store(storage):
        return folders.create(Path(storage), name, document)
    mine = signed(document["sweep_id"], None)

    def claim(taken: str) -> Mapping[str, Any] | None:
        uri = f"{storage.rstrip('/')}/{taken}"
        try:
            write_manifest(Store(uri), mine, None)
        except Conflict:
            return None
        return {"mirror": uri}

    folder = folders.create(work_folder(storage), name, document, claim)
    note(folder, mine.driver)
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
    return next((uri for uri, each in found if each and each[0].files and each[0].sweep_id == sweep_id), None)


class Mirror:
    """Keeps the mirror of a sweep that this process drives. Training never waits for it.

    Changes that the store does not take are sent later, as the folder is then.
    """

    def __init__(
        self, store: Store, manifest: OwnManifest, folder: SweepFolder, journal: Journal, say: Callable[[str], None]
    ) -> None:
        """Sends nothing yet."""
        self._uri, self._manifest, self._journal, self._say = store.uri, manifest, journal, say
        self._sender = Sender(store, manifest, folder, journal)
        every, longest = timeouts.EVERY_SECONDS, timeouts.LONGEST_PAUSE_SECONDS
        self._delivery = Delivery(
            "mirror", self._follow, self._failed, RetryPace(every, every, longest, timeouts.PATIENCE_SECONDS)
        )
        self._has_trouble = False
        self._has_left = False
        """Whether the driver has stopped waiting: the thread then says nothing, and ends at an error."""

    @property
    def is_lost(self) -> bool:
        """Tells whether another driver has taken the sweep over."""
        return self._manifest.lost is not None

    def start(self) -> None:
        """Begins to send, and to tell other machines that the driver lives."""
        self._manifest.keep()
        self._delivery.start()

    def drain(self, seconds: float, is_leaving: Callable[[], bool]) -> MirrorEnd:
        """Waits until all is sent, `seconds` are over, or the caller leaves; returns how far the mirror came."""
        if not self.is_lost:
            self._wait(seconds, is_leaving)
        behind = None if self.is_lost or self._delivery.is_done else self._behind()
        return MirrorEnd(self._uri, behind, self._manifest.lost, self._delivery.is_busy)

    def leave(self) -> None:
        """Waits up to `PATIENCE_SECONDS` for the last changes, and then sends nothing more."""
        self._wait(timeouts.PATIENCE_SECONDS, lambda: False)
        self._has_left = True
        self._manifest.leave()

    def _wait(self, seconds: float, is_leaving: Callable[[], bool]) -> None:
        wait = f"mirror: waiting up to {seconds:.0f} s for {self._uri}; Ctrl-C leaves without it"
        self._delivery.drain(seconds, is_leaving, lambda: self._say(wait))

    def _behind(self) -> str:
        """Says what the mirror lacks."""
        log_bytes = max(0, self._journal.log.length - self._manifest.now.log_bytes)
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
    """Keeps the mirror of a sweep while the block runs; yields None without a mirror.

    Args:
        folder: the sweep's folder, which is locked.
        end: ends the sweep in order. Called in another thread, if another driver has taken over.

    Raises:
        StorageError: the sweep has gone on elsewhere, or the store does not answer.
    """
    uri = folder.mirror()
    if uri is None:
        yield None
        return
    store = Store(uri)
    mirror = Mirror(store, _open(store, folder, sweep_id, end), folder, journal, say)
    mirror.start()
    try:
        yield mirror
    finally:
        mirror.leave()


def _open(store: Store, folder: SweepFolder, sweep_id: str, end: Callable[[str], None]) -> OwnManifest:
    """Replaces the manifest of the folder's last driver, which is over: this process has the folder's lock."""
    while True:
        before, version = read_manifest(store) or (None, None)
        if before is not None:
            _refuse_other(store, folder, sweep_id, before)
        mine = signed(sweep_id, before)
        note(folder, mine.driver, "" if before is None else before.driver)
        with suppress(Conflict):
            return OwnManifest(store, mine, write_manifest(store, mine, version), end)


def _refuse_other(store: Store, folder: SweepFolder, sweep_id: str, found: Manifest) -> None:
    """Refuses a folder if its mirror holds another sweep, or if another driver went on with the mirror."""
    if found.sweep_id != sweep_id:
        raise StorageError(
            f"{store.uri}: holds another sweep, {found.sweep_id}, and not {sweep_id} of {folder.path}: somebody "
            "replaced it; move it away, and the mirror is made anew"
        )
    if found.files and not noted(folder).wrote(found):
        raise StorageError(
            f"{folder.path}: the sweep has gone on elsewhere since, and this folder is behind {store.uri}: go on with "
            f"qsweep resume {store.uri}"
        )
