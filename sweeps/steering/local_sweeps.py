"""Finds the folder of a sweep on this machine, without asking MLflow."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from sweeps.config.uris import is_object_store
from sweeps.errors import StorageError, SweepError
from sweeps.record.folder import SweepFolder, read_events
from trainables.inputs import json_text, paths


def find(sweep: str, storage: Path) -> SweepFolder:
    """The folder of a sweep.

    Args:
        sweep: its folder, its id, or its name; of several sweeps with one name the newest is meant.
        storage: where to look for an id or a name.

    Raises:
        SweepError: there is none.
    """
    if is_object_store(sweep):
        raise SweepError(
            f"{sweep}: is read where its driver runs: name the sweep's folder there, its id or its name; qsweep resume "
            "fetches a sweep whose driver is lost"
        )
    folder = SweepFolder(Path(sweep).expanduser().absolute())
    if paths.is_file(folder.config):
        return folder
    if "/" in sweep:
        raise SweepError(f"{folder.path}: no sweep here: a sweep's folder has a config.json")
    way_out = "name its folder, or the folder that it lies in with --storage"
    if not paths.is_folder(storage):
        raise SweepError(f"{sweep}: no sweep of this id or name: there is no folder {storage.absolute()}; {way_out}")
    there = [SweepFolder(path.parent.absolute()) for path in storage.glob("*/config.json")]
    of_name = [each for each in there if sweep in _names(each)]
    if not of_name:
        raise SweepError(f"{sweep}: no sweep of this id or name in {storage.absolute()}; {way_out}")
    return max(of_name, key=_began)


def new_id(name: str, started: datetime, storage: Path, environment: Mapping[str, str] = os.environ) -> str:
    """The id of a new sweep; that of its job, where it was submitted to a cluster.

    Args:
        name: of the sweep.
        started: when it starts.
        storage: where its folder will be.
        environment: has the id of the job in QSWEEP_SWEEP_ID.

    Raises:
        SweepError: the sweep of that job is there: a job that is submitted again starts no second sweep.
    """
    given = environment.get("QSWEEP_SWEEP_ID")
    if not given:
        return f"{name}-{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    for path in storage.glob("*/config.json"):
        if _names(SweepFolder(path.parent))[:1] == (given,):
            raise SweepError(
                f"{path.parent}: the sweep {given} is there already: go on with it with qsweep resume {path.parent}"
            )
    return given


def _names(folder: SweepFolder) -> tuple[str, ...]:
    """What a sweep may be called by: its id, its name, and its folder's name."""
    try:
        document = json_text.parse(folder.config.read_bytes())
        return str(document["sweep_id"]), str(document["config"]["name"]), folder.path.name
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _began(folder: SweepFolder) -> float:
    """When the sweep began, in seconds since the epoch; 0 when that is not known."""
    try:
        return next((event.time for event, _ in read_events(folder.events)), 0.0)
    except StorageError:
        return 0.0
