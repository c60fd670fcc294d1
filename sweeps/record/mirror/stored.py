"""Reads what a mirror holds."""

from __future__ import annotations

from pydantic import ValidationError

from sweeps.record.mirror.at_once import at_once
from sweeps.record.mirror.manifest import Manifest, TrialFiles
from sweeps.record.mirror.store import Store, StoreError, Version

MANIFEST = "manifest.json"


def read_manifest(store: Store) -> tuple[Manifest, Version] | None:
    """What the mirror holds, as its last whole moment tells it; None when nothing was mirrored yet.

    Raises:
        StoreError: the store does not answer, or holds something else.
    """
    found = store.read(MANIFEST)
    if found is None:
        return None
    try:
        return Manifest.model_validate_json(found[0]), found[1]
    except ValidationError:
        raise StoreError(f"{store.uri}/{MANIFEST}: is no manifest of this version of qsweep") from None


def read_trials(store: Store, manifest: Manifest) -> dict[str, TrialFiles]:
    """What the mirror holds of each trial.

    Raises:
        StoreError: the store does not answer, or an object is missing or damaged.
    """
    names = manifest.trials
    return dict(zip(names, at_once(lambda name: _trial(store, name), names.values()), strict=True))


def _trial(store: Store, name: str) -> TrialFiles:
    found = store.read(name)
    if found is None:
        raise StoreError(f"{store.uri}/{name}: is missing")
    try:
        return TrialFiles.model_validate_json(found[0])
    except ValidationError:
        raise StoreError(f"{store.uri}/{name}: is damaged") from None
