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
from sweeps.mirror import timeouts
from sweeps.mirror.keeping import note, noted
from sweeps.mirror.manifest import MANIFEST, Manifest, read_manifest, read_trials, signed, write_manifest
from sweeps.mirror.store import Conflict, ObjectVersion, Store, StoreError
from sweeps.record.folder import SweepFolder, is_driven, locked, refuse_other_format
from sweeps.record.whole_files import make_folder
from trainables.inputs import json_text

Say = Callable[[str], None]


def fetch(uri: str, storage: Path, say: Say, take_over: bool = False) -> Path:
    """Returns the folder of a sweep with a mirror at `uri`, such as s3://bucket/prefix/NAME.

    This is the folder on this machine if it is the newest, else a new folder in `storage` with the fetched files. A
    driver elsewhere writes the mirror no more once the fetch has begun.

    Args:
        take_over: whether to replace a driver that seems to be alive.

    Raises:
        ConfigError: there is no sweep at `uri`.
        StorageError: a driver of the sweep seems to be alive, the store does not answer, or the folder cannot be
            written.
    """
    problem = bucket_problem(uri)
    if problem is not None:
        raise ConfigError([f"{uri}: {problem}"])
    store = Store(uri)
    while True:
        manifest, version = _manifest(store)
        here = _here(_document(store, manifest), storage, store.uri)
        if here is not None and (is_driven(here) or noted(here).wrote(manifest)):
            say(f"the sweep's folder is on this machine: {here.path}")
            return here.path
        if not (take_over or manifest.has_left):
            _refuse_alive(store, manifest)
        mine = signed(manifest.sweep_id, manifest, has_left=True)
        try:
            write_manifest(store, mine, version)
        except Conflict:
            continue  # The sweep's driver has written meanwhile, or another fetch has.
        return _fetched(store, mine, here, storage.absolute(), say)


def _refuse_alive(store: Store, manifest: Manifest) -> None:
    age = store.age(MANIFEST)
    if age < timeouts.SILENT_SECONDS:
        raise StorageError(
            f"{store.uri}: {manifest.who} drives this sweep, and was heard of {max(age, 0):.0f} s ago: wait until that "
            "driver ends, or stop it there; if that driver is dead, go on with --take-over, or after "
            f"{timeouts.SILENT_SECONDS:.0f} s without a word from it"
        )


def _manifest(store: Store) -> tuple[Manifest, ObjectVersion]:
    found = read_manifest(store)
    if found is None:
        # The user may mean one of the sweeps in this folder.
        there = sorted(name for name in store.folders() if name != "objects")
        hint = f"; in it are {', '.join(there)}" if there else ""
        raise ConfigError([f"{store.uri}: no sweep here{hint}"])
    if not found[0].files:
        # Nobody else can tell a launch that was killed from one that has only begun.
        raise ConfigError(
            [
                f"{store.uri}: no sweep here: {found[0].who} has taken this name, and has mirrored nothing yet; if it "
                f"is over, go on with its folder on that machine, or delete {store.uri}/{MANIFEST}, which frees the "
                "name"
            ]
        )
    return found


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


def _fetched(store: Store, manifest: Manifest, here: SweepFolder | None, storage: Path, say: Say) -> Path:
    """Fetches the folder, which appears whole, and returns its path."""
    make_folder(storage)
    mine = f".{Path(store.uri).name}.{hashlib.sha256(store.uri.encode()).hexdigest()[:8]}."
    draft = SweepFolder(storage / f"{mine}{uuid.uuid4().hex[:8]}")
    try:
        for left in [each for each in storage.iterdir() if each.name.startswith(mine)]:
            if not is_driven(SweepFolder(left)):
                shutil.rmtree(left, ignore_errors=True)  # left by a killed fetch
        make_folder(draft.path)
        with locked(draft):
            trials = read_trials(store, manifest)
            files = [
                *((draft.path / path, (part,)) for path, part in manifest.files.items()),
                *(
                    (draft.trial(key) / path, (part,))
                    for key, each in trials.items()
                    for path, part in each.files.items()
                ),
                (draft.events, manifest.log),
            ]
            size = sum(part.size for _, parts in files for part in parts)
            say(f"fetching {store.uri}: {len(files)} files, {size / 1e6:.1f} MB")
            store.fetch(files)
            note(draft, manifest.driver)
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
