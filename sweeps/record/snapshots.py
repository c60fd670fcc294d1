"""What a trial goes on from: the pack's snapshot with the state of the trial's own process. budget.disk lets them go.

Snapshots only spare training that was done already; a trial's best adapter is its result. So an older snapshot goes
before a newer one, a worse trial's before a better one's, and no adapter ever goes. Where the scheduler parks trials,
the latest snapshot of one that stands at a report point goes only for a repeat's adapter: it is all that is left of its
training, but only repeats are left to train then. Where more trials are granted while repeats train, those that park
meanwhile may lose theirs, and begin anew.
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
from sweeps.record.folder import Kind, SweepFolder
from sweeps.record.whole_files import file_lock, listed, remove_folder
from trainables.contract import Report, StepRecord
from trainables.objective import LOWEST_LOSS, Metrics, Objective, Standing
from trainables.specs import Spec

KEPT = 2
"""Snapshots kept of each trial: when the last one is damaged, the one before it is used."""


class SavedTrial(Spec):
    """The state of a trial's process when its snapshot was written."""

    step: int = 0
    best_step: int = 0
    best_metrics: Metrics | None = None
    """The metrics at that step; None before the first evaluation."""
    history: Annotated[tuple[StepRecord, ...], Field(strict=False)] = ()
    """The steps since the last report."""
    report: Report | None = None
    """The report of this step, if there is one. It is sent again when the event log does not have it."""
    adapter: str | None = None
    """The adapter's folder that goes with the report."""
    sha256: str = ""
    """Digest of the pack's snapshot."""


def files(known: SavedTrial, snapshot: bytes) -> dict[str, bytes]:
    """The files of a snapshot, which `read` reads."""
    stamped = known.model_copy(update={"sha256": hashlib.sha256(snapshot).hexdigest()})
    return {"snapshot.bin": snapshot, "progress.json": stamped.model_dump_json().encode()}


def read(folder: SweepFolder, trial_key: str) -> tuple[SavedTrial, bytes | None]:
    """The trial's latest snapshot that is not damaged; an empty state and None where there is none.

    Raises:
        StorageError: the disk does not show what there is. A trial that began anew would train all steps again.
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
    """The trial's state in a snapshot's folder; an empty one where it cannot be read."""
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
    """Size in bytes."""
    is_latest: bool
    """Whether it is the latest one of its trial."""
    best: Standing
    """The trial's best evaluation when it was written."""
    is_parked: bool = False
    """Whether a parked trial would go on from it."""


def _place(kept: KeptSnapshot) -> tuple[bool, float, float, str]:
    """In which order snapshots go: those of the worst trials first, those of parked ones last."""
    return kept.is_parked, -kept.best.objective, -kept.best.loss, str(kept.path)


def to_remove(
    kept: Sequence[KeptSnapshot], missing: int, worse_than: Standing | None, takes_parked: bool = False
) -> list[KeptSnapshot] | None:
    """The snapshots that make room for `missing` more bytes; None when they cannot. Pure.

    Args:
        kept: all snapshots of the sweep.
        missing: bytes that are wanted beyond what the budget has left.
        worse_than: latest snapshots go only of trials that are worse than this; None lets go of all.
        takes_parked: those that parked trials would go on from go too, after all others.
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
    """Keeps one sweep's checkpoints within budget.disk. Several processes of one machine may share it."""

    def __init__(
        self, folder: SweepFolder, limit: int | None, objective: Objective = LOWEST_LOSS, parks: bool = False
    ) -> None:
        """Room for checkpoints.

        Args:
            limit: bytes; None is without limit.
            parks: whether the scheduler parks trials at their report points.
        """
        self._objective = objective
        self._folder = folder
        self._limit = limit
        self._parks = parks

    @contextmanager
    def room(self, kind: Kind, needed: int, best: Standing, takes_parked: bool = False) -> Iterator[bool]:
        """Makes room for `needed` bytes, and reserves it while the block runs. Gives False when there is none.

        Args:
            kind: what is to be written: an adapter may take the place of any snapshot, a snapshot that of older ones
                and of worse trials.
            best: the best evaluation of the trial that writes.
            takes_parked: as in `to_remove`.
        """
        if self._limit is None:
            yield True
            return
        with file_lock(self._folder.path / "disk.lock"):
            missing = size(self._folder.path / "trials") + needed - self._limit
            # Where nothing is missing, no snapshot is read: there may be thousands.
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
                best = self._objective.standing(known.best_metrics)
                is_parked = self._parks and is_latest and known.report is not None
                kept.append(KeptSnapshot(path, trial.name, size(path), is_latest, best, is_parked))
        return kept


def size(folder: Path) -> int:
    """Bytes of the files below a folder, as far as they are still there: other processes write and remove meanwhile."""
    total = 0
    # os.walk passes over folders that are gone; Path.rglob raises (pathlib.py, 3.11).
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total
