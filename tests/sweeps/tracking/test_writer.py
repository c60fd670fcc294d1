"""Events reach MLflow whatever the server does."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import closing, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import requests
from mlflow_servers import free_port
from sweep_events import begun, ended, record, reported, started
from tracked_sweeps import PARAMS, keep_adapter, run_of, runs, sweep_events

from sweeps.record import delivery
from sweeps.record.events import Event, TrialEnded, TrialReported, TrialState
from sweeps.record.folder import EventLog, acknowledged_bytes, noted_by, read_events
from sweeps.record.journal import Journal
from sweeps.record.sweep_record import SweepRecord, first_wins
from sweeps.tracking import writer as writing
from sweeps.tracking.writer import Writer

DEADLINE = 120.0


class FakeSink:
    """Takes events, or raises as often as it is told to."""

    def __init__(self, failures: int = 0, message: str = "no answer") -> None:
        self.failures, self.message = failures, message
        self.taken: list = []
        self.trials: list[int] = []
        self.experiment_id = "7"

    def attach(self, record) -> None:
        """There was nothing to find."""

    def forget(self) -> None:
        """There was nothing to find."""

    def apply(self, event, record) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError(self.message)
        self.taken.append(event)
        self.trials.append(len(record.trials))


FOREVER = 10**9


@pytest.fixture
def log(folder):
    made = EventLog(folder.events)
    yield made
    made.close()


@pytest.fixture
def start(folder, monkeypatch):
    """Starts a writer on a sink; every sink is healed after the test, so that no thread stays behind."""
    monkeypatch.setattr(writing, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(writing, "PATIENCE_SECONDS", 600.0)  # a busy machine is no news
    sinks: list[tuple[Writer, FakeSink]] = []

    def begin(sink: FakeSink) -> tuple[Writer, Said]:
        said = Said()
        writer = Writer(folder, sink, said)  # type: ignore[arg-type]
        sinks.append((writer, sink))
        writer.start()
        writer.start()  # a driver that leaves makes sure
        return writer, said

    yield begin
    for writer, sink in sinks:
        sink.failures = 0
        writer.drain(DEADLINE)


@pytest.fixture
def deliver(log, start):
    """Starts a writer on a sink, which takes these events and all before them."""

    def delivered(sink: FakeSink, events: Sequence[Event] = ()) -> tuple[Writer, Said]:
        for event in events:
            log.append(event)
        writer, said = start(sink)
        assert writer.drain(DEADLINE) == 0
        return writer, said

    return delivered


class Said(list):
    """What a writer said; a test can wait for its first line."""

    def __init__(self) -> None:
        super().__init__()
        self._some = threading.Event()

    def __call__(self, line: str) -> None:
        self.append(line)
        self._some.set()

    def wait(self) -> None:
        assert self._some.wait(DEADLINE), "the writer said nothing"


EVENTS: list[Event] = [begun(), started("aaaa"), reported("aaaa", 3, 0.7), ended("aaaa", TrialState.COMPLETED)]


def test_the_writer_delivers_every_event_once_in_order_with_the_record_after_it(log, start):
    sink = FakeSink()
    for event in EVENTS[:2]:
        log.append(event)
    writer, said = start(sink)
    for event in EVENTS[2:]:
        log.append(event)
        writer.notify()
    assert writer.drain(DEADLINE) == 0
    assert sink.taken == EVENTS
    assert sink.trials == [0, 1, 1, 1]
    assert said == []


def test_trouble_is_said_once_and_its_end_once(deliver):
    sink = FakeSink(failures=5)
    _, said = deliver(sink, EVENTS)
    assert sink.taken == EVENTS
    assert said == [
        "tracking: ConnectionError: no answer; events are kept and sent again",
        "tracking: back, everything is delivered",
    ]


def test_a_server_that_does_not_answer_is_named_with_the_reason_and_no_more(log, folder, monkeypatch):
    class Unreachable(FakeSink):
        def apply(self, event, record) -> None:
            if self.failures:
                self.failures -= 1
                try:
                    requests.get(f"http://127.0.0.1:{free_port()}/health", timeout=DEADLINE)
                except requests.RequestException as error:
                    # As MLflow does: the cause is left as the error's context.
                    raise RuntimeError(f"API request failed with exception {error}")  # noqa: B904
            super().apply(event, record)

    monkeypatch.setattr(writing, "FIRST_PAUSE_SECONDS", 0.001)
    said: list[str] = []
    for event in EVENTS:
        log.append(event)
    writer = Writer(folder, Unreachable(1), said.append, "http://me:secret@host:5000")  # type: ignore[arg-type]
    writer.start()
    assert writer.drain(DEADLINE) == 0
    assert said[0] == (
        "tracking: no MLflow server answers at http://me:***@host:5000: Connection refused; "
        "events are kept and sent again"
    )


def test_what_the_server_will_never_take_is_left_out_and_said(deliver, folder):
    class Refuses(FakeSink):
        def apply(self, event, record) -> None:
            if isinstance(event, TrialReported):
                raise FileNotFoundError("the adapter is missing")
            super().apply(event, record)

    sink = Refuses()
    writer, said = deliver(sink, EVENTS)
    assert sink.taken == [EVENTS[0], EVENTS[1], EVENTS[3]]
    reason = "FileNotFoundError: the adapter is missing"
    assert said == [
        f"tracking: {reason}; events are kept and sent again",
        f"tracking: MLflow refuses trial_reported of trial aaaa, which is left out: {reason}",
    ]
    assert writer.refused == 1
    # The next driver tries again, and sends what comes behind it once more.
    again = FakeSink()
    writer, _ = deliver(again)
    assert again.taken == EVENTS[2:]
    assert writer.refused == 0


def test_a_trial_whose_end_was_refused_is_not_left_running(sink, folder, client):
    *before, (_, _), (last, after) = first_wins(sweep_events(folder))
    for event, known in before:
        sink.apply(event, known)
    assert run_of(client, "aaaa").info.status == "RUNNING"
    sink.apply(last, after)
    assert run_of(client, "aaaa").info.status == "FINISHED"


def test_a_trial_whose_run_was_deleted_gets_another(sink, folder, client, deliver):
    keep_adapter(folder, "aaaa", 3)
    deliver(sink, [begun(), started("aaaa", **PARAMS)])
    client.delete_run(run_of(client, "aaaa").info.run_id)
    writer, said = deliver(sink, EVENTS[2:])
    (run,) = [
        run
        for run in runs(client)
        if run.data.tags.get("sweep.trial_key") == "aaaa" and run.info.lifecycle_stage == "active"
    ]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["eval_loss"] == 0.7
    assert writer.refused == 0
    assert len(said) == 2


def test_trouble_is_said_in_one_line_without_a_password(log, start):
    sink = FakeSink(1, "API request to http://me:secret@host:5000/api/2.0 failed\nhttp://me:secret@host:5000")
    log.append(EVENTS[0])
    _, said = start(sink)
    said.wait()
    assert said[0].startswith("tracking: ConnectionError: API request to http://me:***@host:5000/api/2.0 failed;")


def test_drain_says_how_many_events_are_left(log, start, folder):
    sink = FakeSink(FOREVER)
    for event in EVENTS:
        log.append(event)
    writer, said = start(sink)
    said.wait()
    assert writer.drain(0.05) == len(EVENTS)
    assert len(said) == 1, "no more time would help"
    assert acknowledged_bytes(noted_by(folder)) == 0


def test_a_writer_that_never_began_has_all_events_left(log, folder):
    log.append(EVENTS[0])
    assert Writer(folder, FakeSink(), print).drain(DEADLINE) == 1  # type: ignore[arg-type]


def test_a_driver_that_ends_has_one_more_try_at_once(log, start, monkeypatch):
    monkeypatch.setattr(writing, "FIRST_PAUSE_SECONDS", 10 * DEADLINE)
    sink = FakeSink(failures=1)
    log.append(EVENTS[0])
    writer, said = start(sink)
    said.wait()
    assert writer.drain(DEADLINE) == 0
    assert sink.taken == EVENTS[:1]


def test_an_event_is_acknowledged_only_when_it_was_taken(log, start, folder):
    class Refuses(FakeSink):
        def apply(self, event, record):
            if isinstance(event, TrialEnded):
                super().apply(event, record)
            else:
                self.taken.append(event)

    sink = Refuses(FOREVER)
    for event in EVENTS:
        log.append(event)
    writer, said = start(sink)
    said.wait()
    assert writer.drain(0.05) == 1
    assert sink.taken == EVENTS[:3]
    assert acknowledged_bytes(noted_by(folder)) == [offset for _, offset in read_events(folder.events)][2]


def test_a_note_that_the_disk_refuses_holds_nothing_up(deliver, folder, monkeypatch):
    monkeypatch.setattr(writing, "write_whole", Mock(side_effect=OSError(28, "No space left on device")))
    sink = FakeSink()
    _, said = deliver(sink, EVENTS)
    assert (sink.taken, said) == (EVENTS, [])


def test_a_spoilt_note_of_what_was_taken_means_all_again(folder):
    for content in ("", "{", "[]", '{"acknowledged_bytes": null}'):
        folder.tracking.write_text(content)
        assert acknowledged_bytes(noted_by(folder)) == 0


# Where a writer goes on when a sweep does


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
        assert writer.drain(DEADLINE) == 0
    return [call.args for call in sink.apply.call_args_list]


@pytest.mark.parametrize("has_journal", [False, True])
def test_behind_what_was_taken_with_the_sweep_until_there(folder, offsets, has_journal):
    whole = [(event, record(EVENTS[: number + 1])) for number, event in enumerate(EVENTS)]
    for taken, offset in enumerate(offsets):
        assert delivered(folder, offset, has_journal) == whole[taken:]
        # At the first event when none ends where the note says.
        assert delivered(folder, offset + 1, has_journal) == whole


# How long a driver waits at its end for what is not delivered yet


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

    monkeypatch.setattr(delivery, "time", SimpleNamespace(monotonic=lambda: now[0]))
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


def test_more_time_is_the_way_out_where_an_event_is_still_on_its_way(folder: Any) -> None:
    is_sent, may_go_on = threading.Event(), threading.Event()

    def apply(*_: object) -> None:
        is_sent.set()
        assert may_go_on.wait(DEADLINE)

    with closing(EventLog(folder.events)) as log:
        log.append(EVENTS[0])
    said: list[str] = []
    writer = Writer(folder, Mock(apply=apply, experiment_id="7"), said.append)
    writer.start()
    try:
        assert is_sent.wait(DEADLINE)
        assert writer.drain(0.0) == 1 and said == []
        assert writer.drain(0.01) == 1
        assert [line for line in said if "set QSWEEP_DRAIN_SECONDS to more" in line] == said != []
    finally:
        may_go_on.set()
        assert writer.drain(DEADLINE) == 0


def test_what_becomes_of_an_event_once_the_driver_has_left_is_not_said(folder: Any, monkeypatch: Any) -> None:
    may_go_on, tries = threading.Event(), []

    def apply(*_: object) -> None:
        tries.append(1)
        assert may_go_on.wait(DEADLINE)
        if len(tries) <= writing.REFUSED_AFTER:
            raise FileNotFoundError("never")

    monkeypatch.setattr(writing, "FIRST_PAUSE_SECONDS", 0.001)
    with closing(EventLog(folder.events)) as log:
        log.append(EVENTS[0])
    said: list[str] = []
    writer = Writer(folder, Mock(apply=apply, experiment_id="7"), said.append)
    writer.start()
    assert writer.drain(0.0) == 1
    (thread,) = (each for each in threading.enumerate() if each.name == "tracking-writer")
    may_go_on.set()
    thread.join(DEADLINE)
    assert (thread.is_alive(), writer.refused, said) == (False, 1, [])
