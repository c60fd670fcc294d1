"""Asks the driver of a running sweep from another process, and waits for its answer."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

from sweeps.errors import Failed, SweepError
from sweeps.record.events import Event, RequestAnswered, SweepEnded
from sweeps.record.folder import SweepFolder, is_driven, locked, read_events
from sweeps.record.journal import Journal
from sweeps.record.sweep_record import SweepRecord
from sweeps.steering import mailbox
from sweeps.steering.answering import Decide, answer_to, no_trial_named, stop_trial, trial_named
from sweeps.steering.mailbox import AddPoint, ExtendSweep, Letter, Request, StopTrial

ANSWER_SECONDS = 30.0
"""How long to wait for the driver's answer, which usually comes within a second."""
TURN_SECONDS = 0.2


def answer(folder: SweepFolder, request: Request) -> RequestAnswered:
    """Asks the driver, and returns its answer. Raises as `ask` does, and Failed if no answer has come in time."""
    deadline, pause = time.monotonic() + ANSWER_SECONDS, threading.Event()
    found = ask(folder, request, lambda: pause.wait(TURN_SECONDS) or time.monotonic() > deadline)
    if found is None:
        told = f"no answer within {ANSWER_SECONDS:.0f} s"
        raise Failed(f"{told}: the request waits in {folder.requests} and may yet be answered")
    return found


def ask(folder: SweepFolder, request: Request, is_over: Callable[[], bool]) -> RequestAnswered | None:
    """Asks the driver, and returns its answer; None if none came before `is_over`. The answer may still come then.

    Args:
        is_over: waits a moment, and tells whether to stop waiting.

    Raises:
        SweepError: nobody drives the sweep, it has ended and its driver only delivers to MLflow, or its driver ended
            without an answer. No request stays behind.
    """
    was_driven = is_driven(folder)
    record, offset = SweepRecord(), 0
    for event, after in _events(folder):
        record, offset = record.apply(event), after
    if not was_driven:
        if (found := _so_already(request, record)) is not None:
            return found
        raise SweepError(f"{folder.path}: {_why_not_running(folder, request, record)}")
    if record.ended is not None:
        # A driver that goes on with a sweep says so in the log a few seconds after it has taken the folder.
        told = "" if record.is_finished else ", or has only begun to go on: then ask again"
        raise SweepError(f"{folder.path}: the sweep has ended; its driver still sends to MLflow{told}")
    request_id = mailbox.send(folder, request, time.time_ns())
    while True:
        # Asked before the log is read, so that an answer just before the driver's end is read too.
        was_driven = is_driven(folder)
        for event, _ in _events(folder, offset):
            if isinstance(event, RequestAnswered) and event.request == request_id:
                return event
            was_driven = was_driven and not isinstance(event, SweepEnded)
        if not was_driven:
            mailbox.withdraw(folder, request_id)
            raise SweepError(f"{folder.path}: the sweep ended before its driver saw the request")
        if is_over():
            return None


def _so_already(request: Request, record: SweepRecord) -> RequestAnswered | None:
    """Answers a request to stop a trial that is STOPPED; None for any other request."""
    if not isinstance(request, StopTrial):
        return None
    asked, answer = stop_trial(request.trial, record)
    if answer.trial_key is not None or not answer.is_accepted:
        return None
    return RequestAnswered(
        time=time.time(), request="", sender=request.sender, asked=asked, is_accepted=True, message=answer.message
    )


def _why_not_running(folder: SweepFolder, request: Request, record: SweepRecord) -> str:
    """Says why a sweep that nobody drives cannot do what is asked for."""
    if isinstance(request, StopTrial) and trial_named(request.trial, record) is None:
        return no_trial_named(request.trial, record)
    if record.is_finished:
        return "the sweep has finished: there is nothing to stop"
    return f"the sweep is not running: there is nothing to stop; qsweep resume {folder.path} goes on with it"


def answer_in_its_place(
    folder: SweepFolder, request: AddPoint | ExtendSweep, decide: Decide, now: float
) -> RequestAnswered:
    """Answers a request for more of a sweep that nobody drives, as its driver would; `qsweep resume` takes it up.

    Args:
        now: seconds since the epoch.

    Raises:
        SweepError: the sweep has not begun.
        StorageError: another process drives the sweep, or its folder cannot be written.
    """
    with locked(folder), closing(Journal(folder)) as journal:
        if journal.record.started is None:
            raise SweepError(f"{folder.path}: the sweep has not begun: qsweep resume {folder.path} begins it")
        letter = Letter(uuid.uuid4().hex, request, is_left_over=False)
        found = answer_to(letter, journal.record, now, decide)
        journal.add(found)
    return found


def _events(folder: SweepFolder, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Reads the events after `offset`; nothing before the driver has made the log."""
    return read_events(folder.events, offset) if folder.events.exists() else iter(())
