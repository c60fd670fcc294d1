"""Delivers events to the tracking server, in a thread. Training never waits for the server.

The sweep's event log is the queue: the thread reads on from the last acknowledged byte, hands event after event to the
sink, and notes the offset. Events that the server does not take stay in the log, and are sent again.
"""

from __future__ import annotations

import json
import math
import shlex
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from cluster.errors import first_cause
from sweeps.config.passwords import hidden
from sweeps.errors import StorageError
from sweeps.record.delivery import Delivery, Over, RetryPace
from sweeps.record.events import Event, TrialEnded, TrialReported, TrialStarted
from sweeps.record.folder import SweepFolder, acknowledged_bytes, noted_by, read_events, writing
from sweeps.record.journal import Journal
from sweeps.record.sweep_record import SweepRecord
from sweeps.record.whole_files import write_whole
from sweeps.tracking import timeouts
from sweeps.tracking.client import without_retries
from sweeps.tracking.failures import is_refusal
from sweeps.tracking.sink import MlflowSink, RunsGone

REFUSED_AFTER = 3
"""Tries of an event that the server refuses for good, before the event is left out."""


def forget_acknowledged(folder: SweepFolder, uri: str) -> None:
    """Notes that this server acknowledged no event: the next writer sends all. Raises `StorageError` if it cannot."""
    note = {**noted_by(folder), "uri": uri, "acknowledged_bytes": 0, "refused": []}
    with writing(folder.tracking):
        write_whole(folder.tracking, json.dumps(note).encode())


class Writer:
    """Delivers a sweep's events, each at least once and in order."""

    def __init__(
        self,
        folder: SweepFolder,
        sink: MlflowSink,
        say: Callable[[str], None],
        uri: str = "",
        journal: Journal | None = None,
        is_replaced: Callable[[], bool] = lambda: False,
    ) -> None:
        """Delivers nothing yet.

        Args:
            uri: names the server. Events that another server acknowledged are sent again.
            journal: keeps the event log open, also after the folder is gone.
            is_replaced: tells whether another driver has taken the sweep over. Nothing more is then sent.
        """
        self._folder = folder
        self._log = folder.events if journal is None else journal.log.open_path
        self._uri = uri
        self._sink = sink
        self._say = say
        self._is_replaced = is_replaced
        self._has_left = False
        """Whether the driver has stopped waiting and closes its log: the thread then says nothing."""
        self._trouble: str | None = None
        self._is_attached = False
        self._refused: list[int] = []
        """Offsets in the log of the events that the server refused."""
        self.are_runs_gone = False
        """Whether the server no longer has runs that it acknowledged. Nothing more is then sent."""
        self._offset, self._record = self._begin(noted_by(folder), journal)
        self._tries = 0
        self._noted = -math.inf
        """Time of the last note, on the monotonic clock."""
        pace = RetryPace(None, timeouts.FIRST_PAUSE_SECONDS, timeouts.LONGEST_PAUSE_SECONDS, timeouts.PATIENCE_SECONDS)
        self._delivery = Delivery("tracking-writer", self._deliver, self._report, pace)

    def _begin(self, noted: Mapping[str, object], journal: Journal | None) -> tuple[int, SweepRecord]:
        """Returns the offset of the first event that this server has not taken, and the sweep until there.

        The offset is 0 if the note is about another server or another log.
        """
        if noted.get("uri", self._uri) != self._uri:
            return 0, SweepRecord()
        refused = noted.get("refused")
        # Sends refused events of an earlier driver again, and all events after them: events may come twice.
        places = refused if isinstance(refused, list) else []
        offset = min([acknowledged_bytes(noted), *(place for place in places if isinstance(place, int))])
        if journal is not None and offset == journal.log.length:
            record: SweepRecord | None = journal.record
        else:
            record = _record_at(offset, read_events(self._log) if journal is None else journal.so_far)
        return (0, SweepRecord()) if record is None else (offset, record)

    @property
    def refused(self) -> int:
        """Returns the number of events that the server refused and that were left out."""
        return len(self._refused)

    def start(self) -> None:
        """Begins to deliver, unless it has begun."""
        self._delivery.start()

    def notify(self) -> None:
        """Tells the thread that the log has new events."""
        self._delivery.notify()

    def drain(self, seconds: float, is_leaving: Callable[[], bool] = lambda: False) -> int:
        """Waits until all is sent, nothing is for `seconds`, or the caller leaves; returns the count of events left."""
        self._has_left = False
        wait = f"tracking: waiting for MLflow, {seconds:.0f} s at most for each event; Ctrl-C leaves without it"
        is_late = self._delivery.drain(seconds, is_leaving, lambda: self._say(wait), lambda: self._offset)
        if is_late and self._trouble is None and seconds > 0:
            # Nothing failed: the event is still on its way, and would get no further the next time.
            more = "a large adapter may: set QSWEEP_DRAIN_SECONDS to more before the next qsweep resume"
            self._say(f"tracking: MLflow takes longer than {seconds:.0f} s for one event; {more}")
        left = 0
        # The next driver reports damage behind the last sent event: this one has its result.
        with suppress(StorageError):
            for _ in read_events(self._log, self._offset):
                left += 1
        self._has_left = True
        return left

    @without_retries()
    def _deliver(self) -> None:
        if self._is_replaced():
            return
        try:
            # The sink has forgotten its runs after an error: a server that failed may have lost some.
            if not self._is_attached and self._record.started is not None:
                self._sink.attach(self._record)
            self._is_attached = True
            self._send()
        except RunsGone as gone:
            again = f"qsweep resume {shlex.quote(str(self._folder.path))} --resend sends all events again"
            self._tell(f"tracking: MLflow no longer has {gone}: {again}")
            self._offset, self.are_runs_gone = 0, True
            raise Over from None
        if self._trouble is not None and not self._refused:
            self._tell("tracking: back, everything is delivered")
        self._trouble = None

    def _send(self) -> None:
        try:
            self._send_all()
        finally:
            # Also after an error: people want to know how much is left.
            self._note()

    def _send_all(self) -> None:
        for event, offset in read_events(self._log, self._offset):
            if self._is_replaced():
                return
            record = self._record.apply(event)
            try:
                self._sink.apply(event, record)
            except Exception as error:
                self._sink.forget()
                # A run that the server refused to make is missing, and is not gone.
                self._is_attached = bool(self._refused)
                self._tries += 1
                if self._tries < REFUSED_AFTER or not is_refusal(error):
                    raise
                self._refuse(event, error)
            self._tries = 0
            self._record, self._offset = record, offset
            if time.monotonic() - self._noted >= timeouts.NOTE_SECONDS:
                # Not after each event: a disk takes 10 ms for a note, and after a kill events come twice anyway.
                self._note()

    def _refuse(self, event: Event, error: Exception) -> None:
        """Leaves out an event that the server refuses for good, so that later events are delivered."""
        self._refused.append(self._offset)
        of = f" of trial {event.trial_key}" if isinstance(event, TrialStarted | TrialReported | TrialEnded) else ""
        self._tell(f"tracking: MLflow refuses {event.type}{of}, which is left out: {self._reason(error)}")

    def _note(self) -> None:
        note = {
            "uri": self._uri,
            "acknowledged_bytes": self._offset,
            "refused": self._refused,
            "experiment_id": self._sink.experiment_id,
        }
        # Without the note, the next driver sends more than it has to. Without the folder, there is no next driver.
        with suppress(OSError):
            write_whole(self._folder.tracking, json.dumps(note).encode())
        self._noted = time.monotonic()

    def _report(self, error: Exception) -> None:
        kind = type(error).__name__
        if self._trouble != kind:
            self._tell(f"tracking: {self._reason(error)}; events are kept and sent again")
        self._trouble = kind

    def _tell(self, line: str) -> None:
        """Says a line of the thread, unless the driver has left."""
        if not self._has_left:
            self._say(line)

    def _reason(self, error: Exception) -> str:
        cause = first_cause(error)
        if isinstance(cause, ConnectionError | socket.gaierror) and cause.strerror:
            return f"no MLflow server answers at {self._uri}: {cause.strerror}"
        if isinstance(cause, sqlite3.Error):
            error = cause  # SQLAlchemy's words around it say less
        # The client's errors name the server with its password.
        return f"{type(error).__name__}: {hidden(str(error).strip()).split(chr(10))[0][:200]}"


def _record_at(wanted: int, events: Iterable[tuple[Event, int]]) -> SweepRecord | None:
    """Returns the sweep after the events up to an offset; None if no event ends there."""
    record, reached = SweepRecord(), 0
    for event, offset in events if wanted else ():
        if offset > wanted:
            break
        record, reached = record.apply(event), offset
    return record if reached == wanted else None
