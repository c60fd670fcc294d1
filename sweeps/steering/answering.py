"""Answers the requests in a driver's mailbox. The driver writes an answer into the event log before it acts on it.

So the next driver knows the answer of a driver that died before it acted: see `SweepRecord.trials_to_stop`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from sweeps.record.events import Reply, RequestAnswered, TrialState
from sweeps.record.journal import Journal
from sweeps.record.run_names import label
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.steering.mailbox import AddPoint, ExtendSweep, Letter, Mailbox, StopSweep, StopTrial
from sweeps.steering.stop import StopState
from trainables.inputs.legible import legible

STOPPED_BY_REQUEST = "stopped by request"
STOPPING = "trials are saved at their next step"
NOT_KNOWN = "this version of qsweep does not know the request, or cannot read it"
ENDING = "ask again once it has ended: qsweep resume then goes on with it"


class Decides(Protocol):
    """See `sweeps.supply.amendments.Amendments`."""

    def point(self, values: Mapping[str, object], record: SweepRecord) -> Reply:
        """Decides whether a point is tried next."""

    def changes(self, wanted: Mapping[str, object], record: SweepRecord, now: float | None) -> Reply:
        """Decides whether keys of the sweep file get other values."""


Decide = Callable[[AddPoint | ExtendSweep, SweepRecord], Reply]
"""Decides whether a request for more is granted, by the sweep's present record."""


def deciding(amendments: Decides, clock: Callable[[], float | None]) -> Decide:
    """Makes a `Decide`; `clock` returns seconds since the epoch, None while nobody drives the sweep."""

    def decide(request: AddPoint | ExtendSweep, record: SweepRecord) -> Reply:
        try:
            if isinstance(request, AddPoint):
                return amendments.point(request.values, record)
            return amendments.changes(request.changes, record, clock())
        except Exception as error:  # A request ends no sweep, whatever it holds.
            return Reply(False, f"the request cannot be decided on: {type(error).__name__}: {error}")

    return decide


@dataclass(frozen=True)
class Answerer:
    """Answers requests for one driver."""

    mailbox: Mailbox
    journal: Journal
    stop: StopState
    stop_trial: Callable[[str], None]
    """Ends the trial of this key: a running trial at its next step, a parked one at once."""
    clock: Callable[[], float]
    decide: Decide

    def answer_all(self) -> None:
        """Answers each waiting request, and does what was asked for.

        Raises:
            StorageError: the event log takes no more; the requests stay in the mailbox.
        """
        for letter in self.mailbox.waiting():
            if letter.request_id not in self.journal.record.answered:
                # No budget ends the sweep, and no queue is closed, between a decision and its event.
                with self.stop.lock:
                    answer = answer_to(letter, self.journal.record, self.clock(), self._decide)
                    self.journal.add(answer)
                self._act(letter, answer)
            self.mailbox.remove(letter)

    def _decide(self, request: AddPoint | ExtendSweep, record: SweepRecord) -> Reply:
        if self.stop.takes_more:
            return self.decide(request, record)
        return Reply(False, f"the sweep is ending ({self.stop.message or 'its last trial is over'}): {ENDING}")

    def _act(self, letter: Letter, answer: RequestAnswered) -> None:
        if not answer.is_accepted:
            return
        if answer.trial_key is not None:
            self.stop_trial(answer.trial_key)
        elif isinstance(letter.request, StopSweep):
            # A signal may have ended the sweep already: then its number is the exit code.
            if not self.stop.is_ending:
                self.stop.signal = signal.SIGINT
            self.stop.ask("interrupted", STOPPED_BY_REQUEST)


def answer_to(letter: Letter, record: SweepRecord, now: float, decide: Decide) -> RequestAnswered:
    """Returns the answer to a request, by the sweep's record; `now` is in seconds since the epoch."""
    asked, decision = _decided(letter, record, decide)
    return RequestAnswered(
        time=now,
        request=letter.request_id,
        sender="unknown" if letter.request is None else letter.request.sender,
        asked=asked,
        is_accepted=decision.is_accepted,
        message=decision.message,
        trial_key=decision.trial_key,
        point=None if decision.point is None else dict(decision.point),
        changes=dict(decision.changes),
    )


def _decided(letter: Letter, record: SweepRecord, decide: Decide) -> tuple[str, Reply]:
    request = letter.request
    if request is None:
        return "an unknown request", Reply(False, NOT_KNOWN)
    if isinstance(request, StopTrial):
        return stop_trial(request.trial, record)
    if isinstance(request, AddPoint | ExtendSweep):
        given, verb = (request.values, "try") if isinstance(request, AddPoint) else (request.changes, "set")
        asked = f"{verb} {', '.join(f'{key}={value}' for key, value in given.items())}"
        return legible(asked), decide(request, record)
    if record.ended is not None and record.ended.time >= (record.resumed or 0.0):
        return "stop the sweep", Reply(False, "the sweep has ended already")
    if letter.is_left_over:
        told = "the sweep was not running when this was asked for; now it runs: ask again to stop it"
        return "stop the sweep", Reply(False, told)
    return "stop the sweep", Reply(True, STOPPING)


def stop_trial(name: str, record: SweepRecord) -> tuple[str, Reply]:
    """Returns the request in words, and its answer, which has no key if the trial is STOPPED already."""
    trial = trial_named(name, record)
    if trial is None:
        return f"stop {name}", Reply(False, no_trial_named(name, record))
    known = label(trial.number)
    if trial.state is TrialState.STOPPED:
        return f"stop {known}", Reply(True, f"{known} is STOPPED already")
    if trial.state not in (TrialState.RUNNING, TrialState.PARKED):
        told = f"{known} is {trial.state.value}: only a RUNNING or PARKED trial can be stopped"
        return f"stop {known}", Reply(False, told)
    told = f"{known} ends {'now' if trial.state is TrialState.PARKED else 'at its next step'}"
    return f"stop {known}", Reply(True, told, trial_key=trial.trial_key)


def trial_named(name: str, record: SweepRecord) -> TrialRecord | None:
    """Returns the trial of a key, or of a name such as t03; None if the sweep has none."""
    names = (name, name.lower())
    return next((t for t in record.trials.values() if t.trial_key == name or label(t.number) in names), None)


def no_trial_named(name: str, record: SweepRecord) -> str:
    """Says that the sweep has no such trial, and which trials it has."""
    there = ", ".join(map(label, sorted(each.number for each in record.trials.values())))
    return f"the sweep has no trial {name}: {f'it has {there}' if there else 'none has begun yet'}"
