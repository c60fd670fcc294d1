"""Where a writer goes on when a sweep does."""

from __future__ import annotations

import json
from contextlib import closing
from unittest.mock import Mock

import pytest
from sweep_events import begun, ended, record, reported, started

from sweeps.record import folder as folders
from sweeps.record.events import Event, TrialState
from sweeps.record.folder import EventLog, read_events
from sweeps.record.journal import Journal
from sweeps.tracking.writer import Writer

EVENTS: list[Event] = [begun(), started("aaaa"), reported("aaaa", 3, 0.7), ended("aaaa", TrialState.COMPLETED)]


@pytest.fixture
def offsets(folder) -> list[int]:
    """Where each event of a log begins, and where the last one ends."""
    with closing(EventLog(folder.events)) as log:
        for event in EVENTS:
            log.append(event)
    return [0, *(offset for _, offset in read_events(folder.events))]


@pytest.mark.parametrize("taken", range(len(EVENTS) + 1))
@pytest.mark.parametrize("has_journal", [False, True])
def test_behind_what_was_taken_with_the_sweep_until_there(folder, offsets, monkeypatch, taken, has_journal):
    folder.tracking.write_text(json.dumps({"acknowledged_bytes": offsets[taken]}))
    if not has_journal:
        writer = Writer(folder, Mock(), print)
    else:
        with closing(Journal(folder)) as journal:
            monkeypatch.setattr(folders, "from_line", Mock(side_effect=AssertionError("the log is read again")))
            writer = Writer(folder, Mock(), print, journal=journal)
    assert (writer._offset, writer._record) == (offsets[taken], record(EVENTS[:taken]))


@pytest.mark.parametrize("beside", [-1, 1])
@pytest.mark.parametrize("has_journal", [False, True])
def test_at_the_first_event_when_none_ends_where_the_note_says(folder, offsets, beside, has_journal):
    for offset in offsets[1:]:
        folder.tracking.write_text(json.dumps({"acknowledged_bytes": offset + beside}))
        with closing(Journal(folder)) as journal:
            writer = Writer(folder, Mock(), print, journal=journal if has_journal else None)
        assert (writer._offset, writer._record) == (0, record([]))
