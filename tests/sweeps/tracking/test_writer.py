"""Events reach MLflow whatever the server does."""

from __future__ import annotations

import json
import threading
from contextlib import closing, nullcontext
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import requests
from mlflow_servers import free_port
from sweep_events import begun, ended, record, reported, started
from tracked_sweeps import PARAMS, run_of, sweep_events

from sweeps.record import delivery
from sweeps.record.events import Event, TrialEnded, TrialReported, TrialState
from sweeps.record.folder import EventLog, acknowledged_bytes, noted_by, read_events
from sweeps.record.journal import Journal
from sweeps.record.sweep_record import new_events
from sweeps.tracking import timeouts
from sweeps.tracking import writer as writing
from sweeps.tracking.writer import Writer

DEADLINE = 120.0
FOREVER = 10**9
EVENTS: list[Event] = [begun(), started("aaaa"), reported("aaaa", 3, 0.7), ended("aaaa", TrialState.COMPLETED)]


class FakeSink:
    """Takes events with the sweep after each; so often it raises an error instead, at events of one type or at any."""

    experiment_id = "7"

    def __init__(self, failures: int = 0, error: Exception | None = None, of: type = object) -> None:
        self.failures, self.error, self.of = failures, error or ConnectionError("no answer"), of
        self.taken: list = []
        self.records: list = []

    def attach(self, record) -> None:
        """There was nothing to find."""

    def forget(self) -> None:
        """There was nothing to find."""

    def apply(self, event, record) -> None:
        if self.failures and isinstance(event, self.of):
            self.failures -= 1
            raise self.error
        self.taken.append(event)
        self.records.append(record)


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


@pytest.fixture
def log(folder):
    """Appends events to the sweep's log."""
    with closing(EventLog(folder.events)) as made:

        def append(events) -> None:
            for event in events:
                made.append(event)

        yield append


@pytest.fixture
def start(folder, monkeypatch):
    """Starts a writer on a sink; every sink is healed after the test, so that no thread stays behind."""
    monkeypatch.setattr(timeouts, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(timeouts, "PATIENCE_SECONDS", 600.0)  # a busy machine is no news
    begun: list[tuple] = []

    def begin(sink, uri: str = "") -> tuple[Writer, Said]:
        said = Said()
        writer = Writer(folder, sink, said, uri)
        begun.append((writer, sink))
        writer.start()
        writer.start()  # a driver that leaves makes sure
        return writer, said

    yield begin
    for writer, sink in begun:
        sink.failures = 0
        writer.drain(DEADLINE)


@pytest.fixture
def deliver(log, start):
    """Starts a writer on a sink, which takes these events and all before them."""

    def delivered(sink, events=(), uri: str = "") -> tuple[Writer, Said]:
        log(events)
        writer, said = start(sink, uri)
        assert writer.drain(DEADLINE) == 0
        return writer, said

    return delivered


def test_the_writer_delivers_every_event_once_in_order_with_the_record_after_it(log, start):
    sink = FakeSink()
    log(EVENTS[:2])
    writer, said = start(sink)
    for event in EVENTS[2:]:
        log([event])
        writer.notify()
    assert writer.drain(DEADLINE) == 0
    assert sink.taken == EVENTS
    assert sink.records == [record(EVENTS[: number + 1]) for number in range(len(EVENTS))]
    assert said == []


def unreachable() -> Exception:
    """What MLflow raises where nobody listens: the cause is left as the error's context."""
    with pytest.raises(requests.RequestException) as cause:
        requests.get(f"http://127.0.0.1:{free_port()}/health", timeout=DEADLINE)
    error = RuntimeError(f"API request failed with exception {cause.value}")
    error.__context__ = cause.value
    return error


OF_SERVER = "http://me:secret@host:5000"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (lambda: ConnectionError("no answer"), "ConnectionError: no answer"),
        (lambda: ConnectionError(f"{OF_SERVER} failed\nagain"), "ConnectionError: http://me:***@host:5000 failed"),
        (unreachable, "no MLflow server answers at http://me:***@host:5000: Connection refused"),
    ],
)
def test_trouble_is_said_once_in_a_line_without_a_password_and_its_end_once(deliver, error, told):
    sink = FakeSink(5, error())
    _, said = deliver(sink, EVENTS, "http://me:***@host:5000")
    assert sink.taken == EVENTS
    assert said == [f"tracking: {told}; events are kept and sent again", "tracking: back, everything is delivered"]


def test_what_the_server_will_never_take_is_left_out_and_said(deliver):
    sink = FakeSink(FOREVER, FileNotFoundError("the adapter is missing"), TrialReported)
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
    assert (again.taken, writer.refused) == (EVENTS[2:], 0)


def test_a_trial_whose_end_was_refused_is_not_left_running(sink, folder, client):
    *before, _, (last, after) = new_events(sweep_events(folder))
    for event, known in before:
        sink.apply(event, known)
    assert run_of(client, "aaaa").info.status == "RUNNING"
    sink.apply(last, after)
    assert run_of(client, "aaaa").info.status == "FINISHED"


def test_a_run_that_people_delete_while_the_sweep_runs_is_said_to_be_gone(sink, client, start, log):
    log([begun(), started("aaaa", **PARAMS)])
    writer, said = start(sink)
    assert writer.drain(DEADLINE) == 0
    client.delete_run(run_of(client, "aaaa").info.run_id)
    log(EVENTS[2:])
    writer, said = start(sink)
    assert writer.drain(DEADLINE) > 0 and writer.are_runs_gone
    assert "tracking: MLflow no longer has the run of t00: " in said[-1] and said[-1].endswith(
        "--resend sends all events again"
    )


@pytest.mark.parametrize(("of", "left"), [(object, 4), (TrialEnded, 1)])
def test_what_was_not_taken_is_left_and_not_acknowledged(log, start, folder, of, left):
    sink = FakeSink(FOREVER, of=of)
    log(EVENTS)
    writer, said = start(sink)
    said.wait()
    assert writer.drain(0.05) == left
    assert len(said) == 1, "no more time would help"
    assert sink.taken == EVENTS[:-left]
    ends = [0, *(offset for _, offset in read_events(folder.events))]
    assert acknowledged_bytes(noted_by(folder)) == ends[-left - 1]


def test_a_writer_that_never_began_has_all_events_left(log, folder):
    log(EVENTS[:1])
    assert Writer(folder, Mock(), print).drain(DEADLINE) == 1


def test_a_driver_that_ends_has_one_more_try_at_once(log, start, monkeypatch):
    monkeypatch.setattr(timeouts, "FIRST_PAUSE_SECONDS", 10 * DEADLINE)
    sink = FakeSink(failures=1)
    log(EVENTS[:1])
    writer, said = start(sink)
    said.wait()
    assert writer.drain(DEADLINE) == 0
    assert sink.taken == EVENTS[:1]


def test_a_note_that_the_disk_refuses_holds_nothing_up(deliver, monkeypatch):
    monkeypatch.setattr(writing, "write_whole", Mock(side_effect=OSError(28, "No space left on device")))
    sink = FakeSink()
    _, said = deliver(sink, EVENTS)
    assert (sink.taken, said) == (EVENTS, [])


def test_a_spoilt_note_of_what_was_taken_means_all_again(folder):
    for content in ("", "{", "[]", '{"acknowledged_bytes": null}'):
        folder.tracking.write_text(content)
        assert acknowledged_bytes(noted_by(folder)) == 0


@pytest.mark.parametrize("has_journal", [False, True])
def test_a_writer_goes_on_behind_what_was_taken_with_the_sweep_until_there(folder, log, has_journal):
    def delivered(acknowledged: int) -> list:
        folder.tracking.write_text(json.dumps({"acknowledged_bytes": acknowledged}))
        sink = FakeSink()
        with closing(Journal(folder)) if has_journal else nullcontext() as journal:
            writer = Writer(folder, sink, print, journal=journal)  # type: ignore[arg-type]
            writer.start()
            assert writer.drain(DEADLINE) == 0
        return [*zip(sink.taken, sink.records, strict=True)]

    log(EVENTS)
    whole = [(event, record(EVENTS[: number + 1])) for number, event in enumerate(EVENTS)]
    for taken, offset in enumerate([0, *(offset for _, offset in read_events(folder.events))]):
        assert delivered(offset) == whole[taken:]
        # At the first event when none ends where the note says.
        assert delivered(offset + 1) == whole


# How long a driver waits at its end for what is not delivered yet


def test_as_long_as_events_are_taken_however_long_all_of_them_take(log, start, monkeypatch):
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
    monkeypatch.setattr(timeouts, "PATIENCE_SECONDS", 3.0)
    log(EVENTS)
    writer, said = start(Mock(apply=slow, experiment_id="7"))
    try:
        assert writer.drain(120.0, turn) == 0
    finally:
        may_go_on.release(len(EVENTS))
    assert said == ["tracking: waiting for MLflow, 120 s at most for each event; Ctrl-C leaves without it"]


def test_more_time_is_the_way_out_where_an_event_is_still_on_its_way(log, start):
    is_sent, may_go_on = threading.Event(), threading.Event()

    def apply(*_: object) -> None:
        is_sent.set()
        assert may_go_on.wait(DEADLINE)

    log(EVENTS[:1])
    writer, said = start(Mock(apply=apply, experiment_id="7"))
    try:
        assert is_sent.wait(DEADLINE)
        assert writer.drain(0.0) == 1 and said == []
        assert writer.drain(0.01) == 1
        assert [line for line in said if "set QSWEEP_DRAIN_SECONDS to more" in line] == said != []
    finally:
        may_go_on.set()
        assert writer.drain(DEADLINE) == 0


def test_what_becomes_of_an_event_once_the_driver_has_left_is_not_said(log, start):
    may_go_on, tries = threading.Event(), []

    def apply(*_: object) -> None:
        tries.append(1)
        assert may_go_on.wait(DEADLINE)
        if len(tries) <= writing.REFUSED_AFTER:
            raise FileNotFoundError("never")

    log(EVENTS[:1])
    earlier = threading.enumerate()  # the thread of another writer may be about to end
    writer, said = start(Mock(apply=apply, experiment_id="7"))
    assert writer.drain(0.0) == 1
    (thread,) = (each for each in threading.enumerate() if each.name == "tracking-writer" and each not in earlier)
    may_go_on.set()
    thread.join(DEADLINE)
    assert (thread.is_alive(), writer.refused, said) == (False, 1, [])
