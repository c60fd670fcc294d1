"""What a killed process has made in part is deleted; what a living one makes is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.base.work_folder import lock, work_folder


def left_by_a_killed_process(target: Path) -> Path:
    folder = target.with_name(f".making-{target.name}-x1_y2z3")
    (folder / "plain").mkdir(parents=True)
    (folder / "plain" / "model.safetensors").write_bytes(b"half")
    return folder


def test_what_killed_processes_have_left_is_deleted(tmp_path: Path) -> None:
    own, others = left_by_a_killed_process(tmp_path / "12ab"), left_by_a_killed_process(tmp_path / "34cd")
    with lock(tmp_path / "12ab"), work_folder(tmp_path / "12ab") as work:
        assert not own.exists()
        assert not others.exists()
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
