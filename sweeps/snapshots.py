"""What a trial goes on from: the pack's snapshot, and what the trial's process knew. Checked before it is trusted."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import Field, ValidationError

from sweeps.folder import SweepFolder
from trainables.contract import Report, StepRecord
from trainables.specs import Spec


class Progress(Spec):
    """A trial between two report points."""

    step: int = 0
    best_step: int = 0
    best_eval_loss: float | None = None
    """None before the first evaluation."""
    history: Annotated[tuple[StepRecord, ...], Field(strict=False)] = ()
    """The steps since the last report."""
    report: Report | None = None
    """The report made at this very step: whoever goes on from here makes it again if nobody took it in."""
    adapter: str | None = None
    """The adapter's folder that goes with the report."""
    sha256: str = ""
    """Of the pack's snapshot."""


def write(folder: SweepFolder, trial_key: str, progress: Progress, snapshot: bytes) -> None:
    """Keeps a snapshot; the one before goes when this one is whole."""
    stamped = progress.model_copy(update={"sha256": hashlib.sha256(snapshot).hexdigest()})
    files = {"snapshot.bin": snapshot, "progress.json": stamped.model_dump_json().encode()}
    kept = folder.keep(trial_key, "snapshot", progress.step, files)
    folder.prune(trial_key, "snapshot", kept)


def read(folder: SweepFolder, trial_key: str) -> tuple[Progress, bytes | None]:
    """The trial's latest whole snapshot; the beginning where there is none, or where it is damaged."""
    kept = folder.latest(trial_key, "snapshot")
    if kept is None:
        return Progress(), None
    try:
        progress = Progress.model_validate_json((kept / "progress.json").read_bytes())
        snapshot = (kept / "snapshot.bin").read_bytes()
    except (OSError, ValidationError):
        return Progress(), None
    if hashlib.sha256(snapshot).hexdigest() != progress.sha256:
        return Progress(), None
    return progress, snapshot
