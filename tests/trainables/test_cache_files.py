"""What the cache's disk refuses is told as such; what a killed process has made in part does not stay there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from trainables.cache_files import lock, told_as_cache, work_folder
from trainables.errors import DataError, TrainableError


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_what_the_disk_refuses_names_the_folder_and_the_way_out(tmp_path: Path, error: Exception) -> None:
    told = rf"^{tmp_path}: the cache cannot be written: .*No space left on device.*: make room, or .* QSWEEP_CACHE$"
    with pytest.raises(TrainableError, match=told), told_as_cache(tmp_path):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        DataError("data.train: cannot load split 'train': No space left on device (os error 28)"),
        SafetensorError("Error while deserializing header: HeaderTooLarge"),
        KeyError("rows"),
    ],
)
def test_other_errors_stay_as_they_are(tmp_path: Path, error: Exception) -> None:
    """Such as that the hub's own cache is full, which is told before."""
    with pytest.raises(type(error)) as raised, told_as_cache(tmp_path):
        raise error
    assert raised.value is error


def left_by_a_killed_process(target: Path) -> Path:
    folder = target.with_name(f".making-{target.name}-x1_y2z3") / "plain"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"half")
    return folder


def test_what_killed_processes_have_left_is_deleted(tmp_path: Path) -> None:
    own, others = left_by_a_killed_process(tmp_path / "12ab"), left_by_a_killed_process(tmp_path / "34cd")
    with lock(tmp_path / "12ab"), work_folder(tmp_path / "12ab") as work:
        assert not own.exists() and not others.exists()
        (work / "made").mkdir()
        (work / "made").rename(tmp_path / "12ab")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["12ab"]


def test_what_a_living_process_makes_is_left_alone(tmp_path: Path) -> None:
    own, others = tmp_path / "12ab", tmp_path / "34cd"
    with lock(others), work_folder(others) as theirs, lock(own), work_folder(own):
        assert theirs.is_dir()


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lock(tmp_path / "12ab"), work_folder(tmp_path / "12ab"):
        raise KeyError
    assert not any(path.is_dir() for path in tmp_path.iterdir())
