"""Writes the driver's events to the log on disk, then passes them to all who listen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from sweeps.record.events import Event
from sweeps.record.folder import EventLog, SweepFolder, read_events
from sweeps.record.sweep_record import SweepRecord, first_wins

Listener = Callable[[Event, SweepRecord], None]


class Journal:
    """Appends events, keeps the record that they add up to, and tells the listeners."""

    def __init__(self, folder: SweepFolder) -> None:
        self._log = EventLog(folder.events)
        self.record = SweepRecord()
        for event, _ in read_events(folder.events):
            self.record = self.record.apply(event)
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()
        self._keeper: int | None = None
        """The only thread that may add events; any when None."""

    def listen(self, listener: Listener) -> None:
        """Calls `listener` with every event from now on, after it is on disk."""
        self._listeners.append(listener)

    def add(self, event: Event) -> None:
        """Appends an event, unless it says nothing new (see `first_wins`)."""
        with self._lock:
            if self._keeper not in (None, threading.get_ident()):
                # Ends the thread, and Ray Tune in it: no trial may go on past a report that was not taken in.
                raise SystemExit
            for fresh, record in first_wins([event], self.record):
                self._log.append(fresh)
                self.record = record
                for listener in self._listeners:
                    listener(fresh, record)

    def take_over(self) -> None:
        """Lets only the calling thread add events from now on. A thread that was left behind ends when it tries."""
        with self._lock:
            self._keeper = threading.get_ident()

    @property
    def length(self) -> int:
        """See `EventLog.length`."""
        return self._log.length

    @property
    def open_path(self) -> Path:
        """See `EventLog.open_path`."""
        return self._log.open_path

    def is_in_place(self) -> bool:
        """See `EventLog.is_in_place`."""
        return self._log.is_in_place()

    def close(self) -> None:
        """Closes the log."""
        self._log.close()
