"""A sweep's folder: made once, locked, written whole, and its log of events, torn lines and all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest
from sweep_events import begun, ended, history, record, reported, started

from sweeps.errors import StorageError
from sweeps.record import folder as folders
from sweeps.record.events import Event, TrialEnded, TrialReported, TrialState, to_line
from sweeps.record.folder import EventLog, SweepFolder, read_events
from sweeps.record.journal import Journal
from sweeps.record.sweep_record import SweepRecord


def test_the_latest_of_a_trial_are_kept_also_those_of_a_million_steps(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    assert folder.all("key", "best") == []
    steps = (999_999, 1_000_000, 1_000_010)
    best = [folder.keep("key", "best", step, {"a": b"x"}) for step in steps]
    saved = [folder.keep("key", "snapshot", step, {"a": b"x"}) for step in steps]
    for kind in ("best", "snapshot"):
        (folder.trial("key") / f"{kind}-of-mine").mkdir()
    assert (folder.all("key", "best"), folder.all("key", "snapshot")) == (best[::-1], saved[::-1])
    folder.prune_adapters("key", best[1])
    folder.drop_snapshots("key", but=1)
    assert (folder.all("key", "best"), folder.all("key", "snapshot")) == (best[:0:-1], saved[2:])
    folder.drop_snapshots("key")
    assert (folder.all("key", "best"), folder.all("key", "snapshot")) == (best[:0:-1], [])
    assert len(list(folder.trial("key").glob("*-of-mine"))) == 2


def test_launches_at_once_get_a_folder_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: folders.create(tmp_path, "x", {"sweep_id": "x-1"}), range(8)))
    assert {path.name for path in tmp_path.iterdir()} == {"x", *(f"x-{number}" for number in range(2, 9))}
    told = json.loads((tmp_path / "x-8" / "config.json").read_text())
    assert told == {"sweep_id": "x-1", "dir": str(tmp_path / "x-8")}


def test_a_storage_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"storage: .* cannot be written: .*; choose another: storage=DIR"):
        folders.create(tmp_path / "file" / "below", "x", {})


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    refused = pytest.raises(StorageError, match="another process drives this sweep")
    with folders.locked(folder), refused, folders.locked(folder):
        pass
    with folders.locked(folder):
        pass


def test_a_file_system_without_locks_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Lustre is mounted without `flock`."""
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(38, "Function not implemented")))
    folder = SweepFolder(tmp_path)
    told = r"its file system has no locks \(Function not implemented\): mount it with flock, or choose"
    with pytest.raises(StorageError, match=f"cannot be written: {told}"), folders.locked(folder):
        pass
    assert not folders.is_driven(folder)


# The log

EVENTS: list[Event] = [begun(), started("a", r=8), reported("a", 3, 1.0), ended("a", TrialState.COMPLETED)]


def written(path: Path, events: list[Event]) -> None:
    with closing(EventLog(path)) as log:
        for event in events:
            log.append(event)


def test_reading_goes_on_from_every_offset(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    written(path, EVENTS[:2])
    written(path, EVENTS[2:])
    offsets = [offset for _, offset in read_events(path)]
    assert offsets[-1] == path.stat().st_size
    for place, offset in enumerate([0, *offsets]):
        assert [event for event, _ in read_events(path, offset)] == EVENTS[place:]


def test_a_log_that_is_not_there_or_has_a_damaged_line_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is missing"):
        list(read_events(tmp_path / "events.jsonl"))
    with pytest.raises(StorageError, match="cannot be read: Is a directory"):
        list(read_events(tmp_path))
    path = tmp_path / "events.jsonl"
    written(path, EVENTS[:1])
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'{"type": "sweep_sta\n' + to_line(EVENTS[1]).encode() + b"\n")
    with pytest.raises(StorageError, match=f"the line at byte {whole} is damaged"):
        list(read_events(path))
    # It can be opened, and reading its beginning is an error.
    with pytest.raises(StorageError, match=r"^/proc/self/mem: cannot be read: Input/output error$"):
        list(read_events(Path("/proc/self/mem")))


@pytest.mark.parametrize("kept", [0, 1, 40, None])
def test_a_torn_last_line_is_ignored_and_cut_before_the_next_event(tmp_path: Path, kept: int | None) -> None:
    """Also one that lacks only its break: it is written with the line, so nobody was told of the event."""
    path = tmp_path / "events.jsonl"
    written(path, EVENTS[:2])
    with path.open("ab") as file:
        file.write(to_line(EVENTS[2]).encode()[:kept])
    assert [event for event, _ in read_events(path)] == EVENTS[:2]
    written(path, EVENTS[3:])
    assert [event for event, _ in read_events(path)] == [*EVENTS[:2], EVENTS[3]]


def test_what_a_failed_disk_kept_of_an_event_does_not_spoil_the_next_one(tmp_path, monkeypatch):
    """As a network's disk that is away: what was written stays, and cannot be cut off at once."""
    with closing(EventLog(tmp_path / "events.jsonl")) as log:
        log.append(EVENTS[0])
        file = log._file
        part = Mock(wraps=file, truncate=Mock(side_effect=OSError(5, "Input/output error")))
        part.write.side_effect = lambda line: file.write(line[:7])
        with monkeypatch.context() as away, pytest.raises(StorageError):
            away.setattr(log, "_file", part)
            log.append(EVENTS[1])
        log.append(EVENTS[1])
    assert [event for event, _ in read_events(tmp_path / "events.jsonl")] == EVENTS[:2]


def test_listeners_hear_of_an_event_once_it_is_on_disk(tmp_path: Path) -> None:
    heard: list[tuple[Event, int, SweepRecord]] = []
    with closing(Journal(folder := SweepFolder(tmp_path))) as journal:
        journal.listen(lambda event, record: heard.append((event, len(list(read_events(folder.events))), record)))
        for event in EVENTS:
            journal.add(event)
    assert [(event, count) for event, count, _ in heard] == [(event, n) for n, event in enumerate(EVENTS, 1)]
    assert heard[-1][2] == journal.record


def test_a_journal_reads_its_log_once_and_hands_it_on_without_steps(tmp_path, monkeypatch):
    folder = SweepFolder(tmp_path)
    with closing(Journal(folder)) as first:
        for event in EVENTS[:2]:
            first.add(event)
    read = Mock(side_effect=folders.from_line)
    monkeypatch.setattr(folders, "from_line", read)
    with closing(Journal(folder)) as journal:
        for event in [*EVENTS[2:], ended("a", TrialState.PAUSED, history=history(4, 6))]:
            journal.add(event)
        assert read.call_count == 2
        so_far = journal.take_so_far()
        assert [offset for _, offset in so_far] == [offset for _, offset in read_events(folder.events)]
        assert sum(len(event.history) for event, _ in so_far if isinstance(event, TrialReported)) == 0
        last = so_far[-1][0]
        assert isinstance(last, TrialEnded) and last.history == history(6, 6)
        assert record(event for event, _ in so_far) == journal.record
        assert list(journal.so_far) == []
        journal.add(ended("a", TrialState.COMPLETED))
        assert list(journal.so_far) == []


def test_a_thread_that_was_left_behind_adds_nothing_and_ends(tmp_path):
    journal = Journal(SweepFolder(tmp_path))
    journal.take_over()
    with ThreadPoolExecutor(1) as pool:
        left_behind = pool.submit(journal.add, EVENTS[0])
    # No Exception: Ray Tune would go on, or tell of a failure.
    assert isinstance(left_behind.exception(), SystemExit)
    assert journal.record == SweepRecord()
    journal.add(EVENTS[0])
    assert journal.record != SweepRecord()
    journal.close()


def replaced(sweep: Path) -> None:
    (sweep / "events.jsonl").rename(sweep / "kept")
    shutil.copy(sweep / "kept", sweep / "events.jsonl")


def moved(sweep: Path) -> None:
    sweep.rename(sweep.with_name("elsewhere"))


@pytest.mark.parametrize("lose", [shutil.rmtree, moved, replaced])
def test_a_log_whose_place_is_lost_says_so_and_is_read_on(tmp_path, lose):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    log = EventLog(sweep / "events.jsonl")
    log.append(EVENTS[0])
    assert log.is_in_place()
    lose(sweep)
    assert not log.is_in_place()
    log.append(EVENTS[1])
    assert [event for event, _ in read_events(log.open_path)] == EVENTS[:2]
    log.close()


def test_a_log_whose_disk_does_not_answer_is_not_said_to_be_gone(tmp_path, monkeypatch):
    log = EventLog(tmp_path / "events.jsonl")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fstat", Mock(side_effect=OSError(errno.ESTALE, "Stale file handle")))
        assert log.is_in_place()
    log.close()
