"""Reads what a mirror holds."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from sweeps.record.mirror.at_once import at_once
from sweeps.record.mirror.manifest import Manifest, TrialFiles
from sweeps.record.mirror.store import Store, StoreError, Version
from trainables.specs import Spec

MANIFEST = "manifest.json"
WAY_OUT = "go on with the folder on the driver's machine, or with the version that wrote this"
Read = TypeVar("Read", bound=Spec)


def read(store: Store, name: str, kind: type[Read]) -> tuple[Read, Version] | None:
    """What an object says, and its version; None when it is not there.

    Raises:
        StoreError: the store does not answer, or holds something else.
    """
    found = store.read(name)
    if found is None:
        return None
    try:
        return kind.model_validate_json(found[0]), found[1]
    except ValidationError:
        raise StoreError(f"{store.uri}/{name}: is damaged, or of another version of qsweep: {WAY_OUT}") from None


def read_manifest(store: Store) -> tuple[Manifest, Version] | None:
    """What the mirror holds, as its last whole moment tells it; None when nothing was mirrored yet. See `read`."""
    return read(store, MANIFEST, Manifest)


def read_trials(store: Store, manifest: Manifest) -> dict[str, TrialFiles]:
    """What the mirror holds of each trial.

    Raises:
        StoreError: the store does not answer, or an object is missing or damaged.
    """
    names = manifest.trials
    return dict(zip(names, at_once(lambda name: _trial(store, name), names.values()), strict=True))


def _trial(store: Store, name: str) -> TrialFiles:
    found = read(store, name, TrialFiles)
    if found is None:
        raise StoreError(f"{store.uri}/{name}: is missing")
    return found[0]
