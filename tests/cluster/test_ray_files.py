"""Temporary folders go, and what lies in Ray's folder and token is its owner's alone."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from ray._private.authentication import authentication_token_setup as tokens

from cluster import timeouts
from cluster.errors import NotStarted
from cluster.ray_files import LONGEST_PATH, private_token, ray_folder, remove_all, temporary_folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def aged(folder: Path) -> Path:
    long_ago = time.time() - 2 * timeouts.FOLDER_ABANDONED_SECONDS
    os.utime(folder, (long_ago, long_ago))
    return folder


def test_folder_is_its_owners_alone_and_goes_with_the_block_also_when_that_is_interrupted(place):
    with pytest.raises(KeyboardInterrupt), temporary_folder("test") as folder:
        assert (folder.parent, mode(folder)) == (place, 0o700)
        (folder / "deep").mkdir()
        (folder / "deep" / "file").touch()
        raise KeyboardInterrupt
    assert list(place.iterdir()) == []


def test_folders_go_also_when_the_process_ends_without_its_blocks(place):
    with temporary_folder("test"), temporary_folder("test"):
        remove_all()
        assert list(place.iterdir()) == []


def test_a_place_where_no_folder_can_be_made_is_told_in_a_line(place):
    place.rmdir()
    told = rf"{place}/qsweep-test-\w+': make room there, or name another"
    with pytest.raises(NotStarted, match=told), temporary_folder("test"):
        pass


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_or_not_ours_is_not(place):
    abandoned, young, other = place / "qsweep-test-a", place / "qsweep-test-b", place / "qsweep-else-c"
    for folder in (abandoned, young, other):
        folder.mkdir()
    aged(abandoned), aged(other)
    with temporary_folder("test") as held:
        aged(held)
        with temporary_folder("test"):
            assert held.exists()
        assert (abandoned.exists(), young.exists(), other.exists()) == (False, True, True)


def test_link_among_the_abandoned_is_not_followed(place, tmp_path_factory):
    kept = tmp_path_factory.mktemp("kept")
    (kept / "file").touch()
    (place / "qsweep-test-link").symlink_to(kept)
    aged(kept)
    os.utime(place / "qsweep-test-link", (0, 0), follow_symlinks=False)
    with temporary_folder("test"):
        assert (kept / "file").exists()


def test_rays_folder_is_short_enough_for_its_sockets(place):
    with ray_folder() as folder:
        assert len(str(folder)) <= LONGEST_PATH < len(str(place / "qsweep-ray-12345678"))
    assert not folder.exists()


def test_rays_folder_stays_where_someone_asked_for_it(place, monkeypatch):
    kept = place / "logs"
    monkeypatch.setenv("QSWEEP_RAY_DIR", str(kept))
    with ray_folder() as folder:
        assert (folder, mode(folder)) == (kept, 0o700)
    assert kept.exists()


@pytest.fixture
def token(tmp_path, monkeypatch) -> Path:
    """Where Ray keeps the token of this user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray" / "auth_token"


def token_of_ray(token: Path) -> str:
    with private_token():
        tokens.generate_and_save_token()
    assert mode(token) == 0o600
    return token.read_text()


def test_token_that_ray_makes_is_its_owners_alone_and_that_of_who_made_it_first(token):
    before = os.umask(0o022)
    try:
        first = token_of_ray(token)
    finally:
        assert os.umask(before) == 0o022
    assert first
    assert token_of_ray(token) == first
    assert list(token.parent.iterdir()) == [token]


@pytest.mark.parametrize("content", ["", "\n", "secret"])
def test_a_token_that_others_could_read_is_closed_to_them_and_an_empty_one_replaced(token, content):
    token.parent.mkdir()
    token.write_text(content)
    token.chmod(0o644)
    found = token_of_ray(token)
    assert found.strip()
    assert content.strip() in found


def test_a_home_without_hard_links_has_a_token(token, monkeypatch):
    monkeypatch.setattr(Path, "hardlink_to", Mock(side_effect=PermissionError(1, "Operation not permitted")))
    assert token_of_ray(token)
