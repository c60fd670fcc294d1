"""Writes the driver's events to the log on disk, then passes them to the listeners."""

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
from sweeps.record.sweep_record import SweepRecord, new_events
from trainables.objective import Objective

ALIVE_SECONDS = 60.0
"""Time without an event after which an event says that the driver lives: so much of a killed driver's time is lost."""
Listener = Callable[[Event, SweepRecord], None]


class Journal:
    """Appends events, keeps the sweep's record, and calls the listeners."""

    def __init__(self, folder: SweepFolder) -> None:
        self.record = SweepRecord()
        self._so_far: list[tuple[Event, int]] | None = []
        self.log = EventLog(folder.events, self._read)
        """Only `add` appends to the log."""
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()
        self._keeper: int | None = None
        """Id of the only thread that may add events; None allows any thread."""

    def _read(self, event: Event, offset: int) -> None:
        self.record = self.record.apply(event)
        self._keep(event, offset)

    def _keep(self, event: Event, offset: int) -> None:
        if self._so_far is not None:
            self._so_far.append((without_steps(event), offset))

    @property
    def so_far(self) -> Sequence[tuple[Event, int]]:
        """Returns all events, `without_steps`, each with the offset after it; empty after `take_so_far`."""
        return self._so_far or ()

    def take_so_far(self) -> Sequence[tuple[Event, int]]:
        """Returns `so_far` and no longer keeps the events: those of a large sweep take memory."""
        taken, self._so_far = self.so_far, None
        return taken

    def listen(self, listener: Listener) -> None:
        """Calls `listener` with every event from now on, after it is on disk."""
        self._listeners.append(listener)

    def tell_alive(self, now: float) -> None:
        """Adds `DriverLives` if no other event has shown for a minute that the driver lives.

        Otherwise the time of a killed driver would count only until its latest report, and a driver that is started and
        killed again and again would use up no budget.
        """
        if now - self.record.known_until >= ALIVE_SECONDS:
            self.add(DriverLives(time=now))

    def add(self, event: Event) -> None:
        """Appends an event, unless it says nothing new (see `new_events`)."""
        with self._lock:
            if self._keeper not in (None, threading.get_ident()):
                # Ends the thread, and Ray Tune in it: no trial may go on past a report that is not in the log.
                raise SystemExit
            for fresh, record in new_events([event], self.record):
                self.log.append(fresh)
                self.record = record
                self._keep(fresh, self.log.length)
                for listener in self._listeners:
                    listener(fresh, record)

    @contextmanager
    def at_rest(self) -> Iterator[tuple[SweepRecord, int]]:
        """Yields the record and the length of the log in bytes. No event is added while the block runs."""
        with self._lock:
            yield self.record, self.log.length

    def take_over(self) -> None:
        """Lets only the calling thread add events from now on. Any other thread ends when it tries."""
        with self._lock:
            self._keeper = threading.get_ident()

    def close(self) -> None:
        """Closes the log."""
        self.log.close()


def without_steps(event: Event) -> Event:
    """Returns the event without its optimizer steps, which are most of a log. `TrialEnded` keeps the last step."""
    match event:
        case TrialReported():
            return event.model_copy(update={"history": ()})
        case TrialEnded():
            return event.model_copy(update={"history": event.history[-1:]})
        case _:
            return event


def rule_event(event: Event, stops: Objective, protects_first: bool) -> schedulers.RuleEvent | None:
    """Converts an event for the scheduler's rule, live or from the log; returns None if the rule does not need it.

    Args:
        stops: the objective by which the rule compares trials.
        protects_first: whether trial 0 is trained to its end whatever it reports.
    """
    match event:
        case TrialStarted():
            is_protected = protects_first and event.number == 0
            return schedulers.Started(event.trial_key, is_protected, event.is_in_tail)
        case TrialReported() if stops.metric in event.metrics:
            value = stops.of(event.at_rung or event.metrics)
            return schedulers.Reported(event.trial_key, event.report_point, value)
        case PointInfeasible():
            return schedulers.Ended(event.trial_key)
        case TrialEnded() if event.state.is_final and not event.may_go_on:
            return schedulers.Ended(event.trial_key, is_diverged=event.state is TrialState.DIVERGED)
        case _:
            # An interrupted trial, or one that may go on, keeps its place; a parked one waits; an unscored one goes on.
            return None
