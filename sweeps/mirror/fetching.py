"""Fetches a sweep from its mirror, so that it goes on on this machine."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from sweeps.config.uris import bucket_problem
from sweeps.errors import ConfigError, StorageError
from sweeps.mirror import lease
from sweeps.mirror.lease import HeldLease
from sweeps.mirror.manifest import Manifest, read_manifest, read_trials, take_over
from sweeps.mirror.opening import note, noted
from sweeps.mirror.store import Store, StoreError
from sweeps.record.folder import SweepFolder, is_driven, refuse_other_format
from sweeps.record.whole_files import make_folder
from trainables.inputs import json_text

Say = Callable[[str], None]


def fetch(uri: str, storage: Path, say: Say) -> Path:
    """Returns the folder of a sweep with a mirror at `uri`, such as s3://bucket/prefix/NAME.

    This is the folder on this machine if it is the newest, else a new folder in `storage` with the fetched files.

    Raises:
        ConfigError: there is no sweep at `uri`.
        StorageError: a driver of the sweep is alive, the store does not answer, or the folder cannot be written.
    """
    problem = bucket_problem(uri)
    if problem is not None:
        raise ConfigError([f"{uri}: {problem}"])
    store = Store(uri)
    document = _document(store, _manifest(store))
    here = _here(document, storage, store.uri)
    if here is not None and (is_driven(here) or noted(here).token >= _manifest(store).token):
        say(f"the sweep's folder is on this machine: {here.path}")
        return here.path
    held = lease.take(store, say, floor=_manifest(store).token)
    held.keep()
    try:
        return _fetched(store, held, here, storage.absolute(), say)
    finally:
        held.release()


def _manifest(store: Store) -> Manifest:
    found = read_manifest(store)
    if found is None:
        # The user may mean one of the sweeps in this folder.
        there = sorted(name for name in store.folders() if name != "objects")
        hint = f"; in it are {', '.join(there)}" if there else _claimed(store)
        raise ConfigError([f"{store.uri}: no sweep here{hint}"])
    return found[0]


def _claimed(store: Store) -> str:
    """Hints at a launch that was killed, or has only begun: nobody else can tell the two apart."""
    found = lease.read(store)
    if found is None:
        return ""
    return (
        f": {found[0].who} has taken this name, and has mirrored nothing yet; if it is over, go on with its folder on "
        f"that machine, or delete {store.uri}/{lease.LEASE}, which frees the name"
    )


def _document(store: Store, manifest: Manifest) -> Mapping[str, Any]:
    place = manifest.files.get("config.json")
    found = None if place is None else store.read(place.object)
    try:
        document = json_text.parse(b"" if found is None else found[0])
        document["sweep_id"]
    except (ValueError, KeyError, TypeError):
        raise StoreError(f"{store.uri}: its config.json is missing or damaged") from None
    checked: dict[str, Any] = document
    refuse_other_format(checked, store.uri)  # before its driver is fenced
    return checked


def _here(document: Mapping[str, Any], storage: Path, uri: str) -> SweepFolder | None:
    """Returns the folder of this very sweep on this machine; None if there is none."""
    # An earlier fetch may have used another name, and been killed before it wrote down its place.
    fetched = takewhile(Path.exists, _names(storage.absolute() / Path(uri).name))
    folders = (SweepFolder(Path(str(place))) for place in (document.get("dir"), *fetched))
    return next((folder for folder in folders if folder.holds(document["sweep_id"])), None)


def _fetched(store: Store, held: HeldLease, here: SweepFolder | None, storage: Path, say: Say) -> Path:
    """Fetches the folder, which appears whole, and returns its path."""
    found = take_over(store, held)
    if found is None:
        raise StoreError(f"{store.uri}: the mirror was deleted")
    manifest = found[0]
    make_folder(storage)
    mine = f".{Path(store.uri).name}.{hashlib.sha256(store.uri.encode()).hexdigest()[:8]}."
    draft = SweepFolder(storage / f"{mine}{uuid.uuid4().hex[:8]}")
    try:
        for left in [each for each in storage.iterdir() if each.name.startswith(mine)]:
            shutil.rmtree(left, ignore_errors=True)  # left by a killed fetch: only this one holds the lease
        make_folder(draft.path)
        trials = read_trials(store, manifest)
        files = [
            *((draft.path / path, (part,)) for path, part in manifest.files.items()),
            *((draft.trial(key) / path, (part,)) for key, each in trials.items() for path, part in each.files.items()),
            (draft.events, manifest.log),
        ]
        size = sum(part.size for _, parts in files for part in parts)
        say(f"fetching {store.uri}: {len(files)} files, {size / 1e6:.1f} MB")
        store.fetch(files)
        held.check()
        note(draft, held.lease)
        if here is not None:
            say(f"{here.path} is behind, and is kept as {_set_aside(here.path)}")
        target = here.path if here is not None else _free(storage / Path(store.uri).name)
        draft.path.rename(target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{storage}: cannot be written: {error.strerror}; name another with --storage") from error
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)
    return target


def _set_aside(path: Path) -> Path:
    kept = _free(path.with_name(f"{path.name}.behind"))
    path.rename(kept)
    return kept


def _free(path: Path) -> Path:
    """Returns the path, or the path with -2, -3, ... if it is taken."""
    return next(each for each in _names(path) if not each.exists())


def _names(path: Path) -> Iterator[Path]:
    yield path
    yield from (Path(f"{path}-{number}") for number in count(2))
