"""Defines the manifest of a mirror, which says who drives the sweep, and for each trial an object about its files."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Annotated, Any

from pydantic import Field, ValidationError

from sweeps.errors import StorageError
from sweeps.mirror import timeouts
from sweeps.mirror.store import Conflict, ObjectVersion, PathBelow, Store, Stored, StoreError
from sweeps.record.folder import refuse_other_format
from trainables.inputs import json_text
from trainables.specs import Spec

MANIFEST = "manifest.json"
FORMAT = 3
"""Format of the manifest, to be raised if two versions of qsweep cannot read each other's manifests."""


class TrialFiles(Spec):
    """The files of one trial, in an object of their own, so that the manifest stays short."""

    files: dict[PathBelow, Stored]
    """Path below the trial's folder -> its object."""


class Manifest(Spec):
    """Lists the files of the mirror, which form a whole folder. Other objects in the store do not count."""

    format: int = FORMAT
    sweep_id: str
    driver: PathBelow
    """Id of the driver that wrote the manifest; no other driver has it."""
    machine: str
    process: int
    has_left: bool = False
    """Whether nobody drives the sweep: the driver has ended in order, or has only fetched the sweep."""
    serial: int = 0
    """Grows with each try to write, so that a driver writes no content twice."""
    files: dict[PathBelow, Stored] = Field(default_factory=dict)
    """Name of a small file of the folder -> its object. Empty if a launch has taken the name and mirrored nothing."""
    log: Annotated[tuple[Stored, ...], Field(strict=False)] = ()
    """Parts of the event log, in order."""
    trials: dict[PathBelow, PathBelow] = Field(default_factory=dict)
    """Trial key -> the object that holds its `TrialFiles`."""

    @property
    def log_bytes(self) -> int:
        """Returns the bytes of the event log that the mirror holds."""
        return sum(part.size for part in self.log)

    @property
    def who(self) -> str:
        """Names its driver, for people."""
        return f"the driver on {self.machine} (process {self.process})"


def signed(sweep_id: str, before: Manifest | None, has_left: bool = False) -> Manifest:
    """Returns a manifest with the content of the one before. It makes this process a driver with a new id."""
    mine = Manifest(
        sweep_id=sweep_id, driver=uuid.uuid4().hex, machine=socket.gethostname(), process=os.getpid(), has_left=has_left
    )
    if before is None:
        return mine
    return mine.model_copy(update={"files": before.files, "log": before.log, "trials": before.trials})


def write_manifest(store: Store, manifest: Manifest, before: ObjectVersion | None) -> ObjectVersion:
    """Writes the manifest in place of the one that was read; see `Store.write`."""
    return store.write(MANIFEST, manifest.model_dump_json().encode(), before)


def read_manifest(store: Store) -> tuple[Manifest, ObjectVersion] | None:
    """Returns the mirror's manifest; None if there is none.

    Raises `StorageError` if the store does not answer, or the manifest is damaged or of another version of qsweep.
    """
    found = store.read(MANIFEST)
    if found is None:
        return None
    where = f"{store.uri}/{MANIFEST}"
    try:
        refuse_other_format(json_text.parse(found[0]), where, FORMAT)
        return Manifest.model_validate_json(found[0]), found[1]
    except (ValueError, AttributeError):  # AttributeError: it is no mapping
        raise StoreError(f"{where}: is damaged: go on with the folder on the driver's machine") from None


def read_trials(store: Store, manifest: Manifest) -> dict[str, TrialFiles]:
    """Returns each trial's files. Raises `StoreError` if no store answers, or an object is missing or damaged."""
    trials = {}
    for (key, name), found in zip(manifest.trials.items(), store.read_all(list(manifest.trials.values())), strict=True):
        try:
            trials[key] = TrialFiles.model_validate_json(b"" if found is None else found[0])
        except ValidationError:
            raise StoreError(f"{store.uri}/{name}: is {'missing' if found is None else 'damaged'}") from None
    return trials


class Fenced(StorageError):  # noqa: N818 - reads as what happened
    """This driver writes the mirror no more: another driver has replaced its manifest, or this driver has ended."""


class Deleted(StoreError):  # noqa: N818 - reads as what happened
    """Somebody has deleted the mirror."""


class OwnManifest:
    """The manifest that this driver wrote last. This driver replaces no other driver's manifest."""

    def __init__(
        self, store: Store, manifest: Manifest, version: ObjectVersion, on_lost: Callable[[str], None]
    ) -> None:
        """Holds a written manifest. `on_lost` is called once, in any thread, when another driver has replaced it."""
        self._store, self._on_lost = store, on_lost
        self._version: ObjectVersion | None = version
        self._lock, self._has_ended, self._serials = threading.Lock(), threading.Event(), count(1)
        self.now = manifest
        self.lost: str | None = None
        """Says that another driver has replaced the manifest; None while no such driver is known."""

    def keep(self) -> None:
        """Writes the manifest again and again, also while a large file is sent: else this driver looks dead."""
        threading.Thread(target=self._renew, name="mirror-renewal", daemon=True).start()

    def _renew(self) -> None:
        while not self._has_ended.wait(timeouts.RENEW_SECONDS):
            # The thread that sends files tells what is wrong with the store.
            with suppress(Exception):
                self.replace()

    def replace(self, **content: Any) -> None:
        """Writes a manifest with new values of these fields.

        Raises:
            Fenced: another driver has replaced the manifest, or this driver has left.
            Deleted: there is no manifest any more.
            StoreError: the store does not answer, or refuses.
        """
        with self._lock:
            if self.lost is not None or self.now.has_left:
                raise Fenced(self.lost or f"{self._store.uri}: this driver has left")
            following = self.now.model_copy(update={**content, "serial": next(self._serials)})
            while True:
                try:
                    self._version = write_manifest(self._store, following, self._version)
                    break
                except Conflict:
                    self._version = self._standing()
            self.now = following

    def _standing(self) -> ObjectVersion:
        """Returns the version of this driver's manifest in the store, after the answer to a write was lost."""
        found = read_manifest(self._store)
        if found is None:
            raise Deleted(f"{self._store.uri}: the mirror was deleted, and is made anew")
        if found[0].driver != self.now.driver:
            self.lost = (
                f"{self._store.uri}: {found[0].who} has taken this sweep over: this one ends here, and writes no more "
                "to the store or to MLflow; follow the sweep there"
            )
            self._has_ended.set()
            self._on_lost(self.lost)
            raise Fenced(self.lost)
        return found[1]

    def begin_anew(self) -> None:
        """Makes the next manifest the first one, after the mirror was deleted."""
        with self._lock:
            self.now, self._version = self.now.model_copy(update={"files": {}, "log": (), "trials": {}}), None

    def leave(self) -> None:
        """Notes in the mirror that this driver has ended. If the store does not answer, the driver looks alive."""
        self._has_ended.set()
        with suppress(StorageError):
            self.replace(has_left=True)
