"""Marks of an event log that grows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sweeps.tracking import delivery_marks
from sweeps.tracking.delivery_marks import Marks


@pytest.fixture
def log(tmp_path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"0123456789" * 10)
    return path


def expected(log: Path, offset: int) -> str:
    return f"{offset} {hashlib.sha256(log.read_bytes()[:offset]).hexdigest()[:12]}"


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_mark_is_the_digest_of_all_before_it_in_whatever_order_marks_are_asked_for(log, monkeypatch, chunk):
    monkeypatch.setattr(delivery_marks, "CHUNK_BYTES", chunk)
    marks = Marks(log)
    for offset in (0, 10, 10, 55, 100, 20, 30, 0, 100):
        assert marks.at(offset) == expected(log, offset)
    with log.open("ab") as file:
        file.write(b"more")
    assert marks.at(104) == expected(log, 104)


def test_a_mark_reads_only_what_is_new(log):
    marks = Marks(log)
    marks.at(60)
    was = expected(log, 100)
    log.write_bytes(b"X" * 60 + log.read_bytes()[60:])
    assert marks.at(100) == was


def test_a_mark_of_another_log_is_none_of_this_one(log):
    marks = Marks(log)
    assert marks.offset(expected(log, 40)) == 40
    assert marks.offset(f"40 {'0' * 12}") is None
    assert marks.offset(expected(log, 40).replace("40", "41", 1)) is None


@pytest.mark.parametrize("mark", [None, "", "x", "-1 abc", "12"])
def test_what_is_no_mark_has_no_offset(log, mark):
    assert Marks(log).offset(mark) is None


def test_a_log_that_was_cut_has_another_mark(log):
    mark = Marks(log).at(100)
    log.write_bytes(log.read_bytes()[:50])
    assert Marks(log).offset(mark) is None
