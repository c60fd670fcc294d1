"""The trials of a sweep as Ray Tune's searcher, with a gate: never more of them live than there are slots, or one.

A free slot goes to a trial that was interrupted, then to one that somebody has asked for, else to whom the rule says: a
parked trial or a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from sweeps.record.sweep_record import SweepRecord
from sweeps.schedulers import Idle, Resume
from sweeps.steering.stop import StopState
from sweeps.supply.trial_source import PlannedTrial, TrialSource
from sweeps.tune.callback import LastReport
from sweeps.tune.journaled_rule import Ruling
from sweeps.tune.trial_places import Places
from trainables.specs import TrialSpec

FINISHED: str = Searcher.FINISHED


class TrialQueue(Searcher):
    """Hands a `TrialSource` to Ray Tune.

    Tune's own ConcurrencyLimiter takes a fixed number; the slots of a cluster change while a sweep runs.
    """

    def __init__(
        self,
        source: TrialSource,
        settings: Callable[[TrialSpec], dict[str, Any]],
        slots: Callable[[], int],
        stop: StopState,
        record: Callable[[], SweepRecord],
        ruling: Ruling,
    ) -> None:
        """A queue.

        Args:
            source: new trials, those that were interrupted, and those that somebody asks for.
            settings: what a trial is told beside what it is: where to report, what is shared.
            slots: how many there are now.
            stop: whether the sweep is asked to end: no trial begins then. Once no trial will come, it is told so.
            record: what the journal has of the sweep now.
            ruling: says what a free slot is for.
        """
        super().__init__()
        self._ruling = ruling
        self.places = Places(None)
        """Where trials' processes go: on the head, unless another is put here."""
        self._begun = ruling.parked()
        """Trial key -> the trial, of those that the rule may resume."""
        self._interrupted = ruling.interrupted()
        self._record = record
        self._source = source
        self._settings = settings
        self._slots = slots
        self._stop = stop
        self._live: dict[str, str] = {}
        """Tune's id of each trial that was handed out and is not over -> the trial's key."""
        self._repeating: set[str] = set()
        """Trials that were handed out and repeat others."""

    @property
    def live(self) -> int:
        """Trials that were handed out and are not over."""
        return len(self._live)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Metric and space are the source's own."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's configuration; None when no slot is free; FINISHED when none will come."""
        if self._stop.reason is not None:
            return FINISHED
        if self._live and len(self._live) >= self._slots():
            # With no trial live, the end must not wait for a host; a trial that there is does, for a slot on it.
            return None
        trial = self._next()
        if trial is None and self._live:
            # A live trial may yet turn out infeasible and make room for another, or lead to one that goes on.
            return None
        trial = trial or self._stop.last_call(self._next)
        if trial is None:
            return FINISHED
        self._live[trial_id] = trial.trial_key
        if trial.repeats is not None:
            self._repeating.add(trial_id)
        self._begun[trial.trial_key] = trial
        is_in_tail = self._ruling.begin(trial)
        return {
            **self._settings(trial.spec),
            "trial_key": trial.trial_key,
            "reported": LastReport.of(self._record().trials.get(trial.trial_key))._asdict(),
            "number": trial.number,
            "params": dict(trial.params),
            "repeats": trial.repeats,
            "is_in_tail": is_in_tail,
            "point": None if trial.point is None else dict(trial.point),
            "spec": trial.spec.model_dump_json(),
            "is_anywhere": self.places.take(trial_id),
        }

    def _next(self) -> PlannedTrial | None:
        """The trial that a free slot is for; None when it is for nobody now."""
        if self._interrupted:
            trial = self._source.next(self._record())
            self._interrupted = self._interrupted - {trial.trial_key} if trial is not None else set()
            if trial is not None:
                return trial
        added = self._source.added(self._record())
        if added is not None:
            return added
        work = self._ruling.rule.next(is_exhausted=False)
        if work is Idle.NEW:
            trial = self._source.next(self._record())
            if trial is not None:
                return trial
            work = self._ruling.rule.next(is_exhausted=True)
        if isinstance(work, Resume):
            return self._begun[work.trial]
        # What is best is known once nothing else trains.
        return self._source.repeat(self._record()) if self._live.keys() <= self._repeating else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Frees the trial's place."""
        self._live.pop(trial_id, None)
        self.places.free(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's event log is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""
