"""Files and folders that are there whole or not at all, and folders that go while they are looked at."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from sweeps.record import digests
from sweeps.record.folder import SweepFolder
from sweeps.record.whole_files import write_folder, write_whole


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_whole(path, b"one")
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"two")
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "trials" / "best"
    write_folder(path, {"adapter/one": b"1", "rows.json": b"2"})
    write_folder(path, {"adapter/two": b"3"})
    assert [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()] == ["adapter/two"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EACCES])
def test_of_a_trial_whose_folder_the_disk_does_not_show_nothing_is_removed(tmp_path, monkeypatch, number):
    folder = SweepFolder(tmp_path)
    older, kept = (folder.keep("t", "best", step, {"f": b""}) for step in (1, 2))
    refuse = Mock(side_effect=OSError(number, os.strerror(number)))
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


WRITES = """
import json, sys
from pathlib import Path
from sweeps.record import folder as folders
from sweeps.record.snapshots import Disk
from sweeps.record.folder import EventLog
from sweeps.record.whole_files import write_whole
folder = folders.create(Path("results"), "x", {})
with folders.locked(folder):
    EventLog(folder.events).close()
    write_whole(folder.tracking, b"{}")
    folder.keep("key", "best", 3, {"adapter/a": b"1"})
    with Disk(folder, 10**9).room("snapshot", 1, 1.0):
        pass
"""


FOLDERS = {".", "trials", "trials/key", "trials/key/best-000003", "trials/key/best-000003/adapter"}


@pytest.mark.parametrize(("umask", "folders", "files"), [(0o022, 0o700, 0o600), (0o007, 0o770, 0o660)])
def test_the_owner_alone_unless_the_user_set_a_umask(tmp_path: Path, umask: int, folders: int, files: int) -> None:
    done = subprocess.run([sys.executable, "-c", WRITES], cwd=tmp_path, umask=umask, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "results" / "x"
    found = {str(path.relative_to(made)): path.stat().st_mode & 0o777 for path in [made, *made.rglob("*")]}
    assert len(found) == len(FOLDERS) + 6, found
    assert found == {name: folders if name in FOLDERS else files for name in found}


def test_a_folder_has_the_digest_of_its_files(tmp_path: Path) -> None:
    files = {"adapter_model.safetensors": b"weights", "adapter_config.json": b"{}", "more/rows.json": b"[1]"}
    write_folder(folder := tmp_path / "adapter", files)
    assert digests.of_folder(folder) == digests.of_files(files) == digests.of_files(digests.read_files(folder))
    assert digests.of_file(folder / "adapter_config.json") == hashlib.sha256(b"{}").hexdigest()
    (folder / "adapter_config.json").write_bytes(b"{ }")
    assert digests.of_folder(folder) != digests.of_files(files)
    assert digests.of_folder(tmp_path / "none") == digests.of_files({})
