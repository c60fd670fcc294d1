"""Finds the folder of a sweep on this machine, without asking MLflow."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from sweeps.config.model import SweepConfig
from sweeps.config.uris import is_object_store, work_folder
from sweeps.errors import SweepError
from sweeps.record.folder import SweepFolder, is_driven, read_events
from sweeps.record.whole_files import entries
from sweeps.report import status
from trainables.inputs import paths
from trainables.inputs.similar import did_you_mean

NO_SWEEP = "no sweep of this id or name"
MOST_SHOWN = 5
"""Most sweeps of the storage that the message about a missing sweep names."""


def find(sweep: str, storage: Path, has_address: bool = True) -> SweepFolder:
    """Returns the folder of a sweep.

    Args:
        sweep: its folder, its id, its name, or its mirror. Of several sweeps with one name the newest is meant, and not
            a copy of its folder.
        storage: where to look for an id, a name or a mirror's sweep.
        has_address: whether the command has --address, for the message.

    Raises:
        SweepError: no such sweep is there.
    """
    if is_object_store(sweep):
        return _mirrored_in(sweep, storage)
    folder = SweepFolder(paths.at_home(Path(sweep)).absolute())
    is_here = paths.is_file(folder.config)
    # A folder that has the name of a sweep may be a model's, which has a config.json too.
    if is_here and ("/" in sweep or _names(folder)):
        return folder
    if "/" in sweep:
        raise SweepError(f"{folder.path}: no sweep here: a sweep's folder has a config.json")
    of_name = [each for each in _in(storage) if sweep in _names(each)]
    if of_name:
        return max(of_name, key=_rank)
    if is_here:
        return folder  # perhaps a damaged sweep: its reader says what is wrong
    way_out = "name its folder, or the folder that it lies in with --storage"
    if not paths.is_folder(storage):
        way_out += ", or its cluster with --address" if has_address else ""
        raise SweepError(f"{sweep}: {NO_SWEEP}: there is no folder {storage.absolute()}; {way_out}")
    raise SweepError(f"{sweep}: {NO_SWEEP} in {storage.absolute()}{_suggestion(sweep, storage)}; {way_out}")


def of_one_name(sweep: str, storage: Path, found: SweepFolder) -> str | None:
    """Says that other sweeps of the storage have the name by which `found` was found; None if there are none."""
    if "/" in sweep or sweep not in _names(found)[1:] or found.path == Path(sweep).absolute():
        return None
    others = [each for each in _in(storage) if each.path != found.path and sweep in _names(each)[1:]]
    newest = sorted(others, key=_rank, reverse=True)
    paths_of = ", ".join(str(each.path) for each in newest[:MOST_SHOWN])
    more = "" if len(newest) <= MOST_SHOWN else f" and {len(newest) - MOST_SHOWN} more"
    return f"{sweep}: {found.path}, the newest of this name; also: {paths_of}{more}" if newest else None


def _suggestion(sweep: str, storage: Path) -> str:
    """Returns the end of a message: the sweep of the storage that may be meant, or the newest sweeps, or nothing."""
    there = {each: _names(each) for each in _in(storage)}
    known = [name for names in there.values() for name in names]
    meant = did_you_mean(sweep, known)
    newest = sorted((each for each, names in there.items() if names), key=_rank, reverse=True)[:MOST_SHOWN]
    return meant or (f"; the newest there: {', '.join(each.path.name for each in newest)}" if newest else "")


def _mirrored_in(mirror: str, storage: Path) -> SweepFolder:
    """Returns the folder of the sweep with this mirror; of several (one may be set aside) the highest by `_rank`."""
    found = [each for each in _in(storage) if each.mirror() == mirror.rstrip("/")]
    if not found:
        raise SweepError(
            f"{mirror}: is read where its driver runs: name the sweep's folder there, its id or its name; qsweep "
            "resume fetches a sweep whose driver is lost"
        )
    return max(found, key=_rank)


def new_id(
    config: SweepConfig,
    started: datetime,
    is_tracked: Callable[[str, str], bool],
    environment: Mapping[str, str] = os.environ,
    mirror_with: Callable[[str, str, str], str | None] = lambda _storage, _name, _id: None,
) -> str:
    """Returns the id of a new sweep: its job's id if it was submitted to a cluster, else a new one.

    Args:
        is_tracked: tells whether the MLflow at a URI has a sweep of an id.
        environment: has the job's id in QSWEEP_SWEEP_ID.
        mirror_with: returns the mirror of the sweep with a storage, a name and an id; None if there is none.

    Raises:
        SweepError: the job's sweep is there, or was: a repeated job must not start a second sweep, which MLflow would
            take for the first.
        StorageError: the object store does not answer.
    """
    name, given = config.name, environment.get("QSWEEP_SWEEP_ID")
    if not given:
        return f"{name}-{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    there = [each.path for each in sorted(_in(work_folder(config.storage)), key=_rank) if _names(each)[:1] == (given,)]
    if there:
        raise SweepError(
            f"{there[-1]}: the sweep {given} is there already: go on with it with qsweep resume {there[-1]}"
        )
    mirror = mirror_with(config.storage, name, given)
    if mirror is not None:
        raise SweepError(f"{mirror}: holds the sweep {given} already: go on with it with qsweep resume {mirror}")
    if is_tracked(config.tracking.uri, given):
        raise SweepError(
            f"{given}: MLflow ({config.tracking.uri}) has a sweep of this id already, and its folder "
            "is not here: go on with that sweep where its folder or its mirror is, with qsweep resume FOLDER or qsweep "
            "resume s3://BUCKET/PREFIX/NAME; a new sweep needs another --submission-id"
        )
    return given


def line_on_earlier(folder: SweepFolder, name: str, now: float) -> str | None:
    """Returns a line about the newest other sweep of this name in the same storage; None if there is none.

    Args:
        folder: folder of the sweep that is about to begin.
        now: seconds since the epoch.
    """
    beside = {each: _names(each) for each in _in(folder.path.parent) if each.path != folder.path}
    others = [each for each, names in beside.items() if names[1:2] == (name,)]
    if not others:
        return None
    there = max(others, key=_rank)
    where = f"the sweep {beside[there][0]}, launched before"
    try:
        state = status.read_status(there, now).state
    except SweepError as error:
        return f"{where}, cannot be read: {error}"
    if state == "RUNNING":
        return f"{where}, is running: qsweep status {there.path} --watch shows it"
    if state == "FINISHED":
        return f"{where}, is finished: qsweep status {there.path} shows it"
    return f"{where}, has not finished: qsweep resume {there.path} goes on with it"


def _in(storage: Path) -> Iterator[SweepFolder]:
    """Yields the folders of sweeps. Skips names with a leading dot: folders that are being fetched from a mirror."""
    found = (SweepFolder(path.absolute()) for path in entries(storage) if not path.name.startswith("."))
    return (folder for folder in found if paths.is_file(folder.config))


def _names(folder: SweepFolder) -> tuple[str, ...]:
    """Returns the words for a sweep: its id, its name, and its folder's name; nothing if it cannot be read."""
    try:
        document = folder.described()  # whoever reads a folder of another format says so
        return str(document["sweep_id"]), str(document["config"]["name"]), folder.path.name
    except (OSError, ValueError, KeyError):
        return ()


def _rank(folder: SweepFolder) -> tuple[float, bool, bool]:
    """Ranks the folders for one word: the latest sweep, then a folder with a driver, then a folder in its own place.

    A copy is not in its own place. A fetch from a mirror leaves a copy too: the folder that was behind.
    """
    return _began(folder), is_driven(folder), _is_in_its_place(folder)


def _is_in_its_place(folder: SweepFolder) -> bool:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Path(folder.described()["dir"]).samefile(folder.path)
    return False


def _began(folder: SweepFolder) -> float:
    """Returns when the sweep began, in seconds since the epoch; 0 if unknown.

    The first event comes once MLflow is imported and the model is read. Until then the time of config.json counts.
    """
    try:
        first = next((event.time for event, _ in read_events(folder.events)), None)
        if first is None and is_driven(folder):
            first = folder.config.stat().st_mtime
    except OSError:
        return 0.0
    return first or 0.0
