"""A trial goes on from its latest snapshot that is whole."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from sweep_events import reported

from sweeps.errors import StorageError
from sweeps.record import snapshots
from sweeps.record.folder import SweepFolder

REPORT = reported("a", 9, 2.5, best=(3, 2.0)).report
DIGEST = hashlib.sha256(b"weights").hexdigest()


def test_a_snapshot_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    known = snapshots.SavedTrial(step=9, best_step=3, best_metrics={"eval_loss": 2.0}, report=REPORT)
    folder.keep("a", "snapshot", 9, snapshots.files(known, b"weights"))
    assert snapshots.read(folder, "a") == (known.model_copy(update={"sha256": DIGEST}), b"weights")


def test_a_damaged_snapshot_gives_way_to_the_one_before(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.keep("a", "snapshot", 3, snapshots.files(snapshots.SavedTrial(step=3), b"earlier"))
    damaged = folder.keep("a", "snapshot", 9, snapshots.files(snapshots.SavedTrial(step=9), b"weights"))
    (damaged / "snapshot.bin").write_bytes(b"weight")
    saved, snapshot = snapshots.read(folder, "a")
    assert (saved.step, snapshot) == (3, b"earlier")


def test_without_a_snapshot_a_trial_begins_at_its_beginning(tmp_path: Path) -> None:
    assert snapshots.read(SweepFolder(tmp_path), "a") == (snapshots.SavedTrial(), None)


def test_a_disk_that_does_not_show_the_snapshots_is_not_one_without(tmp_path, monkeypatch):
    folder = SweepFolder(tmp_path)
    folder.keep("a", "snapshot", 9, snapshots.files(snapshots.SavedTrial(step=9), b"weights"))
    refuse = Mock(side_effect=OSError(errno.ESTALE, os.strerror(errno.ESTALE)))
    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match="trials/a: cannot be read: Stale file handle; go on with qsweep resume"):
        snapshots.read(folder, "a")
