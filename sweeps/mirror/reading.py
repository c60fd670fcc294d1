"""Reads what a mirror holds, and makes the manifest this driver's."""

from __future__ import annotations

from pydantic import ValidationError

from sweeps.mirror.lease import HeldLease
from sweeps.mirror.manifest import FORMAT, MANIFEST, Manifest, TrialFiles
from sweeps.mirror.store import Conflict, Store, StoreError, Version
from trainables.inputs import json_text


def read_manifest(store: Store) -> tuple[Manifest, Version] | None:
    """What the mirror holds, as its last whole moment tells it; None when nothing was mirrored yet.

    Raises:
        StoreError: the store does not answer, or another version of qsweep wrote the manifest, or it is damaged.
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
    """What the mirror holds of each trial.

    Raises:
        StoreError: the store does not answer, or an object is missing or damaged.
    """
    trials = {}
    for (key, name), found in zip(manifest.trials.items(), store.read_all(list(manifest.trials.values())), strict=True):
        try:
            trials[key] = TrialFiles.model_validate_json(b"" if found is None else found[0])
        except ValidationError:
            raise StoreError(f"{store.uri}/{name}: is {'missing' if found is None else 'damaged'}") from None
    return trials


def take_over(store: Store, held: HeldLease) -> tuple[Manifest, Version] | None:
    """What the mirror holds, once its manifest is this driver's: from here on no other driver changes the mirror.

    None when nothing was mirrored yet.

    Raises:
        Fenced: another driver has taken over.
        StoreError: the store does not answer.
    """
    while True:
        held.check()
        found = read_manifest(store)
        if found is None or found[0].token == held.token:
            return found
        manifest, version = found
        if manifest.token > held.token:
            held.lose("another driver")
            continue  # to `check`, which says so
        mine = manifest.model_copy(update={"token": held.token})
        try:
            return mine, store.write(MANIFEST, mine.model_dump_json().encode(), version)
        except Conflict:
            continue
