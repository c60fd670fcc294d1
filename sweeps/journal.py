"""The driver's memory: events go to the log on disk, then to everyone who listens."""

from __future__ import annotations

from collections.abc import Callable

from sweeps.folder import EventLog, SweepFolder, read_events
from sweeps.lifecycle import Event, SweepRecord, first_wins

Listener = Callable[[Event, SweepRecord], None]


class Journal:
    """Appends events, keeps the record that they add up to, and tells the listeners. One thread uses it."""

    def __init__(self, folder: SweepFolder) -> None:
        self._log = EventLog(folder.events)
        self.record = SweepRecord()
        for event, _ in read_events(folder.events):
            self.record = self.record.apply(event)
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        """Calls `listener` with every event from now on, after it is on disk."""
        self._listeners.append(listener)

    def add(self, event: Event) -> None:
        """Takes an event in, unless it says nothing new (see `first_wins`)."""
        for fresh, record in first_wins([event], self.record):
            self._log.append(fresh)
            self.record = record
            for listener in self._listeners:
                listener(fresh, record)

    def close(self) -> None:
        """Closes the log."""
        self._log.close()
