"""Defines the manifest of a mirror, and for each trial an object that says where the trial's files are."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationError

from sweeps.mirror.lease import HeldLease
from sweeps.mirror.store import Conflict, PathBelow, Store, Stored, StoreError, Version
from trainables.inputs import json_text
from trainables.specs import Spec

MANIFEST = "manifest.json"
FORMAT = 2
"""Format of the manifest, to be raised if two versions of qsweep cannot read each other's manifests."""


class TrialFiles(Spec):
    """The files of one trial, in an object of their own, so that the manifest stays short."""

    files: dict[PathBelow, Stored]
    """Path below the trial's folder -> its object."""


class Manifest(Spec):
    """Lists the files of the mirror, which form a whole folder. Other objects in the store do not count."""

    format: int = FORMAT
    token: int
    """`Lease.token` of the driver that wrote the manifest."""
    serial: int = 0
    """Grows with each manifest."""
    sweep_id: str
    files: dict[PathBelow, Stored] = Field(default_factory=dict)
    """Name of a small file of the folder -> its object."""
    log: Annotated[tuple[Stored, ...], Field(strict=False)] = ()
    """Parts of the event log, in order."""
    trials: dict[PathBelow, PathBelow] = Field(default_factory=dict)
    """Trial key -> the object that holds its `TrialFiles`."""

    @property
    def log_bytes(self) -> int:
        """Returns the bytes of the event log that the mirror holds."""
        return sum(part.size for part in self.log)


def read_manifest(store: Store) -> tuple[Manifest, Version] | None:
    """Returns the mirror's manifest; None if nothing was mirrored yet.

    Raises `StoreError` if the store does not answer, or the manifest is damaged or of another version of qsweep.
    """
    found = store.read(MANIFEST)
    if found is None:
        return None
    try:
        document = json_text.parse(found[0])
        if isinstance(document, dict) and document.get("format") == FORMAT:
            return Manifest.model_validate_json(found[0]), found[1]
    except ValueError:
        raise StoreError(f"{store.uri}/{MANIFEST}: is damaged: go on with the folder on the driver's machine") from None
    told = document.get("format") if isinstance(document, dict) else None
    raise StoreError(
        f"{store.uri}/{MANIFEST}: has format {told}, and this version of qsweep reads format {FORMAT} alone: go on "
        "with the version that wrote it"
    )


def read_trials(store: Store, manifest: Manifest) -> dict[str, TrialFiles]:
    """Returns each trial's files. Raises `StoreError` if no store answers, or an object is missing or damaged."""
    trials = {}
    for (key, name), found in zip(manifest.trials.items(), store.read_all(list(manifest.trials.values())), strict=True):
        try:
            trials[key] = TrialFiles.model_validate_json(b"" if found is None else found[0])
        except ValidationError:
            raise StoreError(f"{store.uri}/{name}: is {'missing' if found is None else 'damaged'}") from None
    return trials


def take_over(store: Store, held: HeldLease) -> tuple[Manifest, Version] | None:
    """Writes this driver's token into the manifest and returns it: from then on no other driver changes the mirror.

    None if nothing was mirrored yet. Raises `Fenced` if another driver has taken over, `StoreError` if no store
    answers.
    """
    while True:
        held.check()
        found = read_manifest(store)
        if found is None or found[0].token == held.token:
            return found
        manifest, version = found
        if manifest.token > held.token:
            held.lose("another driver")
            continue  # `check` raises `Fenced`
        mine = manifest.model_copy(update={"token": held.token})
        try:
            return mine, store.write(MANIFEST, mine.model_dump_json().encode(), version)
        except Conflict:
            continue
