"""Writes the driver's events to the log on disk, then passes them to all who listen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from sweeps import schedulers
from sweeps.record.events import (
    DriverLives,
    Event,
    PointInfeasible,
    TrialEnded,
    TrialReported,
    TrialStarted,
    TrialState,
)
from sweeps.record.folder import EventLog, SweepFolder
from sweeps.record.sweep_record import SweepRecord, first_wins
from trainables.objective import Objective

QUIET_SECONDS = 60.0
Listener = Callable[[Event, SweepRecord], None]


class Journal:
    """Appends events, keeps the record that they add up to, and tells the listeners."""

    def __init__(self, folder: SweepFolder) -> None:
        self.record = SweepRecord()
        self._so_far: list[tuple[Event, int]] | None = []
        self.log = EventLog(folder.events, self._read)
        """The file. Only `add` appends to it."""
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()
        self._keeper: int | None = None
        """The only thread that may add events; any when None."""

    def _read(self, event: Event, offset: int) -> None:
        self.record = self.record.apply(event)
        self._keep(event, offset)

    def _keep(self, event: Event, offset: int) -> None:
        if self._so_far is not None:
            self._so_far.append((without_steps(event), offset))

    @property
    def so_far(self) -> Sequence[tuple[Event, int]]:
        """All events, `without_steps`, each with the offset after it; none once `take_so_far` was called."""
        return self._so_far or ()

    def take_so_far(self) -> Sequence[tuple[Event, int]]:
        """Returns `so_far` and keeps it no longer: a large sweep's events take memory."""
        taken, self._so_far = self.so_far, None
        return taken

    def listen(self, listener: Listener) -> None:
        """Calls `listener` with every event from now on, after it is on disk."""
        self._listeners.append(listener)

    def tell_alive(self, now: float) -> None:
        """Adds that the driver lives, where nothing else was added for a minute.

        Else the time of a driver that is killed would count to its latest report only, and one that is started and
        killed again and again would use up no budget.
        """
        if now - self.record.known_until >= QUIET_SECONDS:
            self.add(DriverLives(time=now))

    def add(self, event: Event) -> None:
        """Appends an event, unless it says nothing new (see `first_wins`)."""
        with self._lock:
            if self._keeper not in (None, threading.get_ident()):
                # Ends the thread, and Ray Tune in it: no trial may go on past a report that was not taken in.
                raise SystemExit
            for fresh, record in first_wins([event], self.record):
                self.log.append(fresh)
                self.record = record
                self._keep(fresh, self.log.length)
                for listener in self._listeners:
                    listener(fresh, record)

    @contextmanager
    def at_rest(self) -> Iterator[tuple[SweepRecord, int]]:
        """The record, and the length of the log in bytes; no event is added while the block runs."""
        with self._lock:
            yield self.record, self.log.length

    def take_over(self) -> None:
        """Lets only the calling thread add events from now on. A thread that was left behind ends when it tries."""
        with self._lock:
            self._keeper = threading.get_ident()

    def close(self) -> None:
        """Closes the log."""
        self.log.close()


def without_steps(event: Event) -> Event:
    """The event as the sweep's record and rule need it: of its optimizer steps, most of a log, the last one at most."""
    match event:
        case TrialReported():
            return event.model_copy(update={"report": event.report.model_copy(update={"history": ()})})
        case TrialEnded():
            return event.model_copy(update={"history": event.history[-1:]})
        case _:
            return event


def rule_event(event: Event, stops: Objective, protects_first: bool) -> schedulers.Event | None:
    """The event as the rule takes it, while the sweep runs and when it goes on later; None for what says nothing to it.

    Args:
        stops: names the metric that the rule goes by.
        protects_first: whether trial 0 is trained to its end whatever it reports.
    """
    match event:
        case TrialStarted():
            is_protected = protects_first and event.number == 0
            return schedulers.Started(event.trial_key, is_protected, event.is_in_tail)
        case TrialReported():
            return schedulers.Reported(event.trial_key, event.report.point, stops.of(event.report.metrics))
        case PointInfeasible():
            return schedulers.Ended(event.trial_key)
        case TrialEnded() if event.state.is_final and not event.may_go_on:
            return schedulers.Ended(event.trial_key, is_diverged=event.state is TrialState.DIVERGED)
        case _:
            return None  # A trial that was interrupted, or may go on, does so where it was; a parked one waits.
