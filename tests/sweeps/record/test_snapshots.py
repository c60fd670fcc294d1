"""A trial goes on from its latest snapshot that is whole; which snapshots make room for others, and which never do."""

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
from sweeps.record.snapshots import Disk, KeptSnapshot, to_remove
from trainables.objective import SortKey

REPORT = reported("a", 9, 2.5, best=(3, 2.0))


def test_a_snapshot_is_read_as_it_was_written_and_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    assert snapshots.read_snapshot(folder, "a") == (snapshots.SavedTrial(), None)
    known = snapshots.SavedTrial(step=3, best_step=3, best_metrics={"eval_loss": 2.0}, report=REPORT)
    folder.keep("a", "snapshot", 3, snapshots.files(known, b"weights"))
    damaged = folder.keep("a", "snapshot", 9, snapshots.files(snapshots.SavedTrial(step=9), b"later"))
    assert snapshots.read_snapshot(folder, "a")[1] == b"later"
    (damaged / "snapshot.bin").write_bytes(b"late")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert snapshots.read_snapshot(folder, "a") == (known.model_copy(update={"sha256": digest}), b"weights")


def test_a_disk_that_does_not_show_the_snapshots_is_not_one_without(tmp_path, monkeypatch):
    folder = SweepFolder(tmp_path)
    folder.keep("a", "snapshot", 9, snapshots.files(snapshots.SavedTrial(step=9), b"weights"))
    refuse = Mock(side_effect=OSError(errno.ESTALE, os.strerror(errno.ESTALE)))
    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match="trials/a: cannot be read: Stale file handle; go on with qsweep resume"):
        snapshots.read_snapshot(folder, "a")


def standing(loss: float) -> SortKey:
    return SortKey(loss, loss)


def kept(name: str, loss: float, is_latest: bool = True, is_parked: bool = False) -> KeptSnapshot:
    return KeptSnapshot(Path(name), name, 10, is_latest, standing(loss), is_parked)


def test_superseded_snapshots_go_first_then_those_of_the_worst_trials() -> None:
    snapshots = [kept("a", 1.0), kept("b", 3.0), kept("b-old", 3.0, is_latest=False), kept("c", 2.0)]
    assert [each.trial_key for each in to_remove(snapshots, 25, None) or ()] == ["b-old", "b", "c"]
    assert [each.trial_key for each in to_remove(snapshots, 15, standing(2.5)) or ()] == ["b-old", "b"]
    assert to_remove(snapshots, 25, standing(2.5)) is None
    assert to_remove(snapshots, 0, None) == []


def test_what_a_parked_trial_would_go_on_from_never_goes_but_for_a_repeat_after_all_others() -> None:
    snapshots = [kept("a", 9.0, is_parked=True), kept("a-old", 9.0, is_latest=False), kept("b", 1.0)]
    assert [each.trial_key for each in to_remove(snapshots, 20, None) or ()] == ["a-old", "b"]
    assert to_remove(snapshots, 30, None) is None
    snapshots.append(kept("c", 10.0, is_parked=True))
    found = to_remove(snapshots, 30, None, takes_parked=True)
    assert [each.trial_key for each in found or ()] == ["a-old", "b", "c"]
    assert to_remove(snapshots, 50, None, takes_parked=True) is None


@pytest.mark.parametrize(("parks", "is_at_report_point"), [(True, True), (True, False), (False, True)])
def test_a_trial_is_parked_where_it_reported_if_the_scheduler_parks_trials(tmp_path, parks, is_at_report_point):
    folder = SweepFolder(tmp_path)
    report = reported("a", 3, 2.0) if is_at_report_point else None
    for step, told in ((2, None), (3, report)):
        known = snapshots.SavedTrial(step=step, report=told, best_metrics={"eval_loss": 2.0})
        folder.keep("a", "snapshot", step, snapshots.files(known, b"weights"))
    used, stays = snapshots.size(tmp_path / "trials"), parks and is_at_report_point
    # Both snapshots would have to go.
    with Disk(folder, used, parks=parks).room("best", used - 20, standing(1.0)) as is_room:
        assert is_room is not stays
    left = [path.name for path in folder.all("a", "snapshot")]
    assert left == (["snapshot-000003", "snapshot-000002"] if stays else [])
