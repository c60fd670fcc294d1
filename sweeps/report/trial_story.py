"""Collects what a sweep's page shows beyond the record: train losses, times in slots, warnings, requests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sweeps.record.events import (
    DataPrepared,
    Event,
    RequestAnswered,
    SweepStarted,
    TrialEnded,
    TrialParked,
    TrialReported,
    TrialStarted,
)
from sweeps.record.sweep_record import SweepRecord
from trainables.contract import StepRecord


@dataclass(frozen=True)
class SlotTime:
    """A time for which a trial held a slot."""

    since: float
    until: float
    """Both in seconds that the sweep's drivers have run, without the pauses between them."""


@dataclass
class Story:
    """Takes events one by one, each with the record after it."""

    train: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Trial key -> (step, train_loss) of its steps."""
    slot_times: dict[str, list[SlotTime]] = field(default_factory=dict)
    """Trial key -> times for which the trial held a slot."""
    warnings: list[str] = field(default_factory=list)
    """Oddities of the rows, each once."""
    requests: list[RequestAnswered] = field(default_factory=list)
    _since: dict[str, float] = field(default_factory=dict)
    """Key of a trial that holds a slot now -> start, counted as in `SlotTime`."""

    def take(self, event: Event, record: SweepRecord) -> None:
        """Adds an event; `record` is the sweep's record after the event."""
        now = record.seconds_spent(event.time)
        match event:
            case SweepStarted():
                self.end(now)
            case DataPrepared():
                self.warnings += [each for each in event.warnings if each not in self.warnings]
            case TrialStarted():
                self._since.setdefault(event.trial_key, now)
            case TrialReported():
                self._steps(event.trial_key, event.history)
            case TrialParked():
                self._leaves(event.trial_key, now)
            case TrialEnded():
                self._steps(event.trial_key, event.history)
                self._leaves(event.trial_key, now)
            case RequestAnswered():
                self.requests.append(event)
            case _:
                pass

    def end(self, now: float) -> None:
        """Ends all times in slots at `now`, counted as in `SlotTime`: the driver is gone, or `now` is the present."""
        for key in list(self._since):
            self._leaves(key, now)

    def _leaves(self, key: str, now: float) -> None:
        since = self._since.pop(key, None)
        if since is not None:
            self.slot_times.setdefault(key, []).append(SlotTime(since, max(since, now)))

    def _steps(self, key: str, history: Sequence[StepRecord]) -> None:
        if history:
            self.train.setdefault(key, []).extend((step.step, step.train_loss) for step in history)
