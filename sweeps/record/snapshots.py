"""Writes and reads what a trial goes on from: the pack's snapshot, and the state of the trial's own process."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from sweeps.errors import StorageError
from sweeps.record.folder import SweepFolder
from sweeps.record.whole_files import listed
from trainables.contract import Report, StepRecord
from trainables.objective import Metrics
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
