"""A new sweep's mirror, and the mirror of a sweep that this process drives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.config.uris import is_object_store, work_folder
from sweeps.errors import StorageError
from sweeps.record import folder as folders
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.record.mirror import holding, note
from sweeps.record.mirror.at_once import at_once
from sweeps.record.mirror.following import Behind, Follower
from sweeps.record.mirror.holding import Held
from sweeps.record.mirror.store import Store
from sweeps.record.mirror.stored import read_manifest


def create(storage: str, name: str, document: Mapping[str, Any]) -> SweepFolder:
    """Makes the folder of a new sweep; see `folders.create`. On an object store its name is claimed there too.

    Raises:
        StorageError: the folder cannot be made, or the object store does not answer or refuses.
    """
    if not is_object_store(storage):
        return folders.create(Path(storage), name, document)
    claimed: list[Held] = []

    def claim(taken: str) -> Mapping[str, Any] | None:
        uri = f"{storage.rstrip('/')}/{taken}"
        store = Store(uri)
        # A sweep whose lease somebody deleted has its name still.
        held = holding.claim(store) if read_manifest(store) is None else None
        if held is None:
            return None
        claimed.append(held)
        return {"mirror": uri}

    folder = folders.create(work_folder(storage), name, document, claim)
    note.write(folder, claimed[-1].lease)
    return folder


def mirror_with(storage: str, name: str, sweep_id: str) -> str | None:
    """Where the mirror of a sweep is that was launched with this storage and name; None when there is none.

    Raises:
        StorageError: the object store does not answer or refuses.
    """
    if not is_object_store(storage):
        return None
    store = Store(storage)
    numbered = re.compile(rf"{re.escape(name)}(-\d+)?")
    uris = [f"{store.uri}/{each}" for each in store.folders() if numbered.fullmatch(each)]
    found = at_once(lambda uri: read_manifest(Store(uri)), uris)
    return next((uri for uri, each in zip(uris, found, strict=True) if each and each[0].sweep_id == sweep_id), None)


@dataclass(frozen=True)
class MirrorEnd:
    """How a mirror stands when its sweep ends."""

    uri: str
    behind: Behind | None
    """What it lacks; None when it is whole."""
    lost: str | None
    """That another driver has taken the sweep over; None when none has."""
    is_busy: bool
    """Whether a thread still waits for the store."""

    @property
    def is_whole(self) -> bool:
        """Whether the mirror holds all of the folder, and is this driver's."""
        return self.behind is None and self.lost is None


class Mirror:
    """The mirror of a sweep that this process drives; a sweep without one has one that does nothing."""

    def __init__(self, held: Held | None = None, follower: Follower | None = None) -> None:
        self._held = held
        self._follower = follower

    @property
    def is_lost(self) -> bool:
        """Whether another driver has taken the sweep over."""
        return self._held is not None and self._held.lost is not None

    def drain(self, seconds: float, is_leaving: Callable[[], bool]) -> MirrorEnd | None:
        """How far the mirror came; None for a sweep without one. See `Follower.drain`."""
        if self._follower is None:
            return None
        behind = None if self.is_lost else self._follower.drain(seconds, is_leaving)
        lost = None if self._held is None else self._held.lost
        return MirrorEnd(self._follower.uri, behind if lost is None else None, lost, self._follower.is_busy)


@contextmanager
def mirrored(
    folder: SweepFolder, journal: Journal, sweep_id: str, say: Callable[[str], None], end: Callable[[str], None]
) -> Iterator[Mirror]:
    """Holds the lease of a sweep's mirror while the block runs, and keeps the mirror.

    Args:
        folder: the sweep's, which is locked.
        end: ends the sweep in order, since another driver has taken over; called in another thread.

    Raises:
        StorageError: another driver holds the lease, the sweep has gone on elsewhere, or the store does not answer.
    """
    uri = note.mirror_of(folder)
    if uri is None:
        yield Mirror()
        return
    store = Store(uri)
    held = _take(store, folder, sweep_id, say)
    follower = Follower(store, held, folder, journal, sweep_id, say)
    journal.listen(follower.heard)
    held.keep(end)
    follower.start()
    try:
        yield Mirror(held, follower)
    finally:
        follower.leave()
        held.release()


def _take(store: Store, folder: SweepFolder, sweep_id: str, say: Callable[[str], None]) -> Held:
    known = note.noted(folder)
    _refuse_older(store, folder, sweep_id, known.token)
    held = holding.take(store, say, known.dead_holder, known.token)
    try:
        # Once more: while this one waited, the sweep may have gone on elsewhere.
        _refuse_older(store, folder, sweep_id, known.token)
        note.write(folder, held.lease)
    except BaseException:
        held.release()
        raise
    return held


def _refuse_older(store: Store, folder: SweepFolder, sweep_id: str, token: int) -> None:
    """Refuses a folder that is not what the sweep has come to: another driver went on with the mirror."""
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
