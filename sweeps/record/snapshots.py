"""Snapshots from which trials resume: the state of the pack and the trial's progress. budget.disk limits them.

Snapshots only save training from being repeated; a trial's best adapter is its result. So adapters are never removed
for room. Superseded snapshots go first, then the latest snapshots, those of the worst trials first. The latest snapshot
of a parked trial is all that is left of its training: it goes only for a repeat's adapter, when only repeats are left
to train. If users add trials while repeats train, trials that park meanwhile may lose their snapshots and begin anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from sweeps.errors import StorageError
from sweeps.record.events import TrialReported
from sweeps.record.folder import FilesKind, SweepFolder
from sweeps.record.whole_files import file_lock, listed, remove_folder
from trainables.contract import StepRecord
from trainables.objective import LOWEST_LOSS, Metrics, Objective, SortKey
from trainables.specs import Spec

KEPT = 2
"""Snapshots kept of each trial: if the last one is damaged, the one before is used."""


class SavedTrial(Spec):
    """The progress of a trial when its snapshot was written."""

    step: int = 0
    best_step: int = 0
    best_metrics: Metrics | None = None
    """Metrics at `best_step`; None before the first evaluation."""
    history: Annotated[tuple[StepRecord, ...], Field(strict=False)] = ()
    """Steps since the last report."""
    report: TrialReported | None = None
    """The report of this step, if there is one. It is sent again if the event log does not have it."""
    sha256: str = ""
    """Digest of the pack's snapshot."""


def files(known: SavedTrial, snapshot: bytes) -> dict[str, bytes]:
    """Returns the files of a snapshot for `read_snapshot`: name -> content."""
    stamped = known.model_copy(update={"sha256": hashlib.sha256(snapshot).hexdigest()})
    return {"snapshot.bin": snapshot, "progress.json": stamped.model_dump_json().encode()}


def read_snapshot(folder: SweepFolder, trial_key: str) -> tuple[SavedTrial, bytes | None]:
    """Returns the trial's latest undamaged snapshot; an empty state and None if there is none.

    Raises:
        StorageError: the disk does not list the snapshots. A trial that began anew would train all steps again.
    """
    try:
        there = folder.all(trial_key, "snapshot", listed)
    except OSError as error:
        place = folder.trial(trial_key)
        raise StorageError(f"{place}: cannot be read: {error.strerror}; go on with qsweep resume") from error
    for kept in there:
        whole = _read(kept)
        if whole is not None:
            return whole
    return SavedTrial(), None


def saved_trial(kept: Path) -> SavedTrial:
    """Reads the trial's state from a snapshot's folder; returns an empty state if it cannot be read."""
    try:
        return SavedTrial.model_validate_json((kept / "progress.json").read_bytes())
    except (OSError, ValidationError):
        return SavedTrial()


def _read(kept: Path) -> tuple[SavedTrial, bytes] | None:
    try:
        snapshot = (kept / "snapshot.bin").read_bytes()
    except OSError:
        return None
    saved = saved_trial(kept)
    return (saved, snapshot) if hashlib.sha256(snapshot).hexdigest() == saved.sha256 else None


@dataclass(frozen=True)
class KeptSnapshot:
    """A snapshot on disk."""

    path: Path
    trial_key: str
    size: int
    """Bytes."""
    is_latest: bool
    best: SortKey
    """The trial's best evaluation when the snapshot was written."""
    is_parked: bool = False
    """Whether a parked trial would resume from the snapshot."""


def _place(kept: KeptSnapshot) -> tuple[bool, float, float, str]:
    """Sorts snapshots for removal: those of the worst trials first, those of parked trials last."""
    return kept.is_parked, -kept.best.objective, -kept.best.loss, str(kept.path)


def to_remove(
    kept: Sequence[KeptSnapshot], missing: int, worse_than: SortKey | None, takes_parked: bool = False
) -> list[KeptSnapshot] | None:
    """Chooses the snapshots to remove for `missing` more bytes; returns None if they cannot make enough room. Pure.

    Args:
        kept: all snapshots of the sweep.
        worse_than: latest snapshots go only if their trials are worse than this; None removes any.
        takes_parked: snapshots from which parked trials would resume go too, after all others.
    """
    superseded = [each for each in kept if not each.is_latest]
    latest = [
        each
        for each in kept
        if each.is_latest and (takes_parked or not each.is_parked) and (worse_than is None or each.best > worse_than)
    ]
    chosen: list[KeptSnapshot] = []
    for each in [*sorted(superseded, key=_place), *sorted(latest, key=_place)]:
        if missing <= 0:
            break
        chosen.append(each)
        missing -= each.size
    return chosen if missing <= 0 else None


class Disk:
    """Keeps one sweep's checkpoints within budget.disk, also if several processes of one machine write them."""

    def __init__(
        self, folder: SweepFolder, limit: int | None, objective: Objective = LOWEST_LOSS, parks: bool = False
    ) -> None:
        """Takes the limit in bytes; None is no limit. `parks` tells whether the scheduler parks trials at reports."""
        self._objective = objective
        self._folder = folder
        self._limit = limit
        self._parks = parks

    @contextmanager
    def room(self, kind: FilesKind, needed: int, best: SortKey, takes_parked: bool = False) -> Iterator[bool]:
        """Makes room for `needed` bytes and reserves it while the block runs. Yields False if there is no room.

        Args:
            kind: what is to be written. An adapter may replace any snapshot; a snapshot may replace only superseded
                snapshots and those of worse trials.
            best: the best evaluation of the trial that writes.
            takes_parked: see `to_remove`.
        """
        if self._limit is None:
            yield True
            return
        with file_lock(self._folder.path / "disk.lock"):
            missing = size(self._folder.path / "trials") + needed - self._limit
            # If nothing is missing, no snapshot is read: there may be thousands.
            kept = self._snapshots() if missing > 0 else ()
            chosen = to_remove(kept, missing, best if kind == "snapshot" else None, takes_parked)
            for each in chosen or ():
                remove_folder(each.path)
            yield chosen is not None

    def _snapshots(self) -> list[KeptSnapshot]:
        kept = []
        for trial in self._folder.trials():
            for place, path in enumerate(self._folder.all(trial.name, "snapshot")):
                known, is_latest = saved_trial(path), place == 0
                best = self._objective.sort_key(known.best_metrics)
                is_parked = self._parks and is_latest and known.report is not None
                kept.append(KeptSnapshot(path, trial.name, size(path), is_latest, best, is_parked))
        return kept


def size(folder: Path) -> int:
    """Returns the bytes of all files below a folder. Files that other processes remove meanwhile do not count."""
    total = 0
    # os.walk passes over folders that are gone; Path.rglob raises (pathlib.py, 3.11).
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total
