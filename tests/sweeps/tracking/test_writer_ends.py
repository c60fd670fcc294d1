"""How long a driver waits at its end for what is not delivered yet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from sweep_events import begun, ended, reported, started

from sweeps.record.events import Event, TrialState
from sweeps.record.folder import EventLog, read_events
from sweeps.record.journal import Journal
from sweeps.tracking import writer as writing
from sweeps.tracking.sink import RunsGone
from sweeps.tracking.writer import Writer

DEADLINE = 50.0
EVENTS: list[Event] = [begun(), started("aaaa"), reported("aaaa", 3, 0.7), ended("aaaa", TrialState.COMPLETED)]

FAILING: dict[str, Any] = {
    "apply": Mock(side_effect=ConnectionError("no server")), "is_refusal": lambda _: False, "experiment_id": "7"
}  # fmt: skip
"""Of a sink that no event reaches."""


def wait_for_threads() -> None:
    """Back once the threads of all writers have ended."""
    for thread in threading.enumerate():
        if thread.name == "tracking-writer":
            thread.join(DEADLINE)
            assert not thread.is_alive()


def test_as_long_as_events_are_taken_however_long_all_of_them_take(folder: Any, monkeypatch: Any) -> None:
    now, is_sent, may_go_on = [0.0], threading.Semaphore(0), threading.Semaphore(0)
    turns = iter(EVENTS)

    def slow(*_: object) -> None:
        now[0] += 100.0
        is_sent.release()
        assert may_go_on.acquire(timeout=DEADLINE)

    def turn() -> bool:
        # When an event is on its way, the one before it is delivered.
        if next(turns, None) is not None:
            assert is_sent.acquire(timeout=DEADLINE)
            may_go_on.release()
        return False

    monkeypatch.setattr(writing, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with closing(EventLog(folder.events)) as log:
        for event in EVENTS:
            log.append(event)
    said: list[str] = []
    writer = Writer(folder, Mock(apply=slow, experiment_id="7"), said.append)
    writer.start()
    try:
        assert writer.drain(120.0, turn) == 0
    finally:
        may_go_on.release(len(EVENTS))
    assert said == ["tracking: waiting for MLflow, 120 s at most for each event; Ctrl-C leaves without it"]


@pytest.mark.parametrize(
    ("fails", "seconds", "is_told"), [(False, 0.01, True), (True, 0.01, False), (False, 0.0, False)]
)
def test_more_time_is_the_way_out_only_where_an_event_was_waited_for_and_is_still_on_its_way(
    folder: Any, monkeypatch: Any, fails: bool, seconds: float, is_told: bool
) -> None:
    tries, may_go_on = threading.Semaphore(0), threading.Event()

    def apply(*_: object) -> None:
        tries.release()
        if fails:
            raise ConnectionError("no server")
        assert may_go_on.wait(DEADLINE)

    monkeypatch.setattr(writing, "FIRST_PAUSE_SECONDS", 0.001)
    with closing(EventLog(folder.events)) as log:
        log.append(EVENTS[0])
    said: list[str] = []
    sink = Mock(apply=apply, is_refusal=lambda _: False, experiment_id="7")
    writer = Writer(folder, sink, said.append)
    writer.start()
    try:
        for _ in range(2 if fails else 1):
            assert tries.acquire(timeout=DEADLINE)
        assert writer.drain(seconds) == 1
        assert any("set QSWEEP_DRAIN_SECONDS to more" in line for line in said) is is_told
    finally:
        sink.apply = Mock()
        may_go_on.set()
        assert writer.drain(DEADLINE) == 0


@pytest.mark.parametrize("error", [ValueError("never"), RunsGone("the sweep's run")], ids=["refused", "gone"])
def test_what_becomes_of_an_event_once_the_driver_has_left_is_not_said(
    folder: Any, monkeypatch: Any, error: Exception
) -> None:
    tries = 1 if isinstance(error, RunsGone) else writing.REFUSED_AFTER
    may_go_on, fails = threading.Event(), iter([error] * tries)

    def apply(*_: object) -> None:
        assert may_go_on.wait(DEADLINE)
        if (failure := next(fails, None)) is not None:
            raise failure

    monkeypatch.setattr(writing, "FIRST_PAUSE_SECONDS", 0.001)
    with closing(EventLog(folder.events)) as log:
        log.append(EVENTS[0])
    said: list[str] = []
    sink = Mock(apply=apply, is_refusal=lambda raised: not isinstance(raised, RunsGone), experiment_id="7")
    writer = Writer(folder, sink, said.append)
    writer.start()
    assert writer.drain(0.0) == 1
    may_go_on.set()
    wait_for_threads()
    assert next(fails, None) is None
    assert said == []


def test_a_thread_that_goes_on_trying_says_nothing_once_the_driver_has_left(folder: Any, monkeypatch: Any) -> None:
    """The driver has closed its log by then: the thread finds none, or the file that has its number now."""
    looks, is_empty = threading.Semaphore(0), threading.Event()

    def read(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
        looks.release()
        return iter(()) if is_empty.is_set() else read_events(path, offset)

    def look() -> None:
        assert looks.acquire(timeout=DEADLINE)

    monkeypatch.setattr(writing, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(writing, "LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(writing, "read_events", read)
    said: list[str] = []
    with closing(Journal(folder)) as journal:
        writer = Writer(folder, Mock(**FAILING), said.append, journal=journal)
        journal.add(EVENTS[0])
        writer.start()
        for _ in range(2):
            look()
        assert writer.drain(0.01) == 1
    before = list(said)
    while looks.acquire(blocking=False):
        pass
    for _ in range(2):
        look()
    is_empty.set()
    wait_for_threads()
    assert said == before == ["tracking: ConnectionError: no server; events are kept and sent again"]
