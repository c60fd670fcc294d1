"""Files and folders that are there whole or not at all, and folders that go while they are looked at."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sweeps.record.folder import SweepFolder
from sweeps.record.whole_files import write_folder, write_whole


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_whole(path, b"one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "trials" / "best"
    write_folder(path, {"adapter/one": b"1", "rows.json": b"2"})
    write_folder(path, {"adapter/two": b"3"})
    assert [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()] == ["adapter/two"]
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_without_files_is_a_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "best", {})
    assert list((tmp_path / "best").iterdir()) == []


def test_a_trial_whose_folder_goes_while_it_is_looked_at_has_kept_nothing(tmp_path, monkeypatch):
    def gone_before(look):
        def lose_and_look(path):
            if trials.exists():
                trials.rename(tmp_path / "elsewhere")
            return look(path)

        return lose_and_look

    trials = tmp_path / "sweep" / "trials"
    trials.parent.mkdir()
    folder = SweepFolder(trials.parent)
    kept = folder.keep("t", "best", 2, {"f": b""})
    monkeypatch.setattr(os, "scandir", gone_before(os.scandir))
    monkeypatch.setattr(os, "listdir", gone_before(os.listdir))
    for look in (
        folder.trials,
        folder.clean,
        lambda: folder.all("t", "best"),
        lambda: folder.prune_adapters("t", kept),
        lambda: folder.drop_snapshots("t"),
    ):
        assert not look()
        assert not trials.exists()
        (tmp_path / "elsewhere").rename(trials)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_of_a_trial_whose_folder_the_disk_does_not_show_nothing_is_removed(tmp_path, monkeypatch, number):
    folder = SweepFolder(tmp_path)
    older, kept = (folder.keep("t", "best", step, {"f": b""}) for step in (1, 2))

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        patch.setattr(os, "scandir", refuse)
        folder.prune_adapters("t", kept)
        folder.drop_snapshots("t")
        folder.clean()
    assert folder.all("t", "best") == [kept, older]


@pytest.mark.parametrize("second", ["rows", "adapter/b", "more/b"])
def test_a_sweep_that_is_moved_while_a_trial_writes_does_not_come_back_half(tmp_path, monkeypatch, second):
    sweep = tmp_path / "sweep"
    sweep.mkdir()

    def move(_: int) -> None:
        if sweep.exists():
            sweep.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(os, "fsync", move)
    with pytest.raises(FileNotFoundError):
        SweepFolder(sweep).keep("t", "best", 2, {"adapter/a": b"1", second: b"2"})
    assert not sweep.exists()
