"""Where a writer goes on when a sweep does."""

from __future__ import annotations

import json
from contextlib import closing, nullcontext
from unittest.mock import Mock

import pytest
from sweep_events import begun, ended, record, reported, started

from sweeps.record.events import Event, TrialState
from sweeps.record.folder import EventLog, read_events
from sweeps.record.journal import Journal
from sweeps.record.sweep_record import SweepRecord
from sweeps.tracking.writer import Writer

EVENTS: list[Event] = [begun(), started("aaaa"), reported("aaaa", 3, 0.7), ended("aaaa", TrialState.COMPLETED)]


@pytest.fixture
def offsets(folder) -> list[int]:
    """Where each event of a log begins, and where the last one ends."""
    with closing(EventLog(folder.events)) as log:
        for event in EVENTS:
            log.append(event)
    return [0, *(offset for _, offset in read_events(folder.events))]


def delivered(folder, acknowledged: int, has_journal: bool) -> list[tuple[Event, SweepRecord]]:
    """What a writer delivers where so many bytes are noted: each event with the sweep after it."""
    folder.tracking.write_text(json.dumps({"acknowledged_bytes": acknowledged}))
    sink = Mock(experiment_id="7")
    with closing(Journal(folder)) if has_journal else nullcontext() as journal:
        writer = Writer(folder, sink, print, journal=journal)
        writer.start()
        assert writer.drain(50.0) == 0
    return [call.args for call in sink.apply.call_args_list]


@pytest.mark.parametrize("has_journal", [False, True])
def test_behind_what_was_taken_with_the_sweep_until_there(folder, offsets, has_journal):
    whole = [(event, record(EVENTS[: number + 1])) for number, event in enumerate(EVENTS)]
    for taken, offset in enumerate(offsets):
        assert delivered(folder, offset, has_journal) == whole[taken:]
        # At the first event when none ends where the note says.
        assert delivered(folder, offset + 1, has_journal) == whole
