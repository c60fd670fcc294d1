"""The trials of a sweep as Ray Tune's searcher, with a gate: never more of them live than there are slots, or one.

A free slot goes to a trial that was interrupted, then to one that somebody has asked for, else to whom the rule says: a
parked trial or a new one. The trial's process goes to the head, and to any node once the head's share is used up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.tune.search import Searcher

from cluster.nodes import staying
from sweeps.schedulers import Idle, Resume
from sweeps.supply.trial_source import PlannedTrial, TrialSource
from sweeps.tune.slot_trial import PROCESS_BYTES
from sweeps.tune.sweep_trials import SweepTrials
from trainables.specs import TrialSpec

FINISHED: str = Searcher.FINISHED
HEAD_SHARE = 0.5
"""The part of the memory that Ray counts on the head which trials' processes may take."""


class TrialQueue(Searcher):
    """Hands a `TrialSource` to Ray Tune.

    Tune's own ConcurrencyLimiter takes a fixed number; the slots of a cluster change while a sweep runs.
    """

    def __init__(
        self,
        source: TrialSource,
        settings: Callable[[TrialSpec], dict[str, Any]],
        slots: Callable[[], int],
        trials: SweepTrials,
        places: ProcessPlaces,
    ) -> None:
        """A queue.

        Args:
            source: new trials, those that were interrupted, and those that somebody asks for.
            settings: what a trial is told beside what it is: where to report, what is shared.
            slots: how many there are now.
            trials: what is known of those that have begun; their rule says what a free slot is for. No trial begins
                once the sweep is to end.
            places: where the trials' processes go.
        """
        super().__init__()
        self._trials, self._rule, self._stop = trials, trials.rule, trials.stop
        self._places = places
        self._begun = trials.parked()
        """Trial key -> the trial, of those that the rule may resume."""
        self._interrupted = trials.interrupted()
        self._source = source
        self._settings = settings
        self._slots = slots
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
        is_in_tail = self._trials.begin(trial)
        return {
            **self._settings(trial.spec),
            "trial_key": trial.trial_key,
            "reported": self._trials.last_report(trial.trial_key)._asdict(),
            "attempt": self._trials.next_attempt(),
            "number": trial.number,
            "params": dict(trial.params),
            "repeats": trial.repeats,
            "is_in_tail": is_in_tail,
            "point": None if trial.point is None else dict(trial.point),
            "spec": trial.spec.model_dump_json(),
            "is_anywhere": self._places.place(trial_id),
        }

    def _next(self) -> PlannedTrial | None:
        """The trial that a free slot is for; None when it is for nobody now."""
        if self._interrupted:
            trial = self._source.next(self._trials.journal.record)
            self._interrupted = self._interrupted - {trial.trial_key} if trial is not None else set()
            if trial is not None:
                return trial
        added = self._source.added(self._trials.journal.record)
        if added is not None:
            return added
        work = self._rule.next(is_exhausted=False)
        if work is Idle.NEW:
            trial = self._source.next(self._trials.journal.record)
            if trial is not None:
                return trial
            work = self._rule.next(is_exhausted=True)
        if isinstance(work, Resume):
            return self._begun[work.trial]
        # What is best is known once nothing else trains.
        return self._source.repeat(self._trials.journal.record) if self._live.keys() <= self._repeating else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Frees the trial's place."""
        self._live.pop(trial_id, None)
        self._places.free(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's event log is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class ProcessPlaces:
    """Where the processes of trials are: on the head, or on any node."""

    def __init__(
        self,
        on_head: int | None,
        room_anywhere: Callable[[], int] = lambda: 0,
        begin: Callable[[], object] = lambda: None,
    ) -> None:
        """All places are free.

        Args:
            on_head: how many processes are on the head before others are placed anywhere; None: all are on the head.
            room_anywhere: how many more than those of the head's share the cluster has room for. The head takes those
                that are too many: they would wait for ever.
            begin: called before the first trial whose process may be on any node. What it returns lives on with these
                places: Ray ends an actor that nobody holds.
        """
        self._most_on_head = on_head
        self._room_anywhere, self._begin = room_anywhere, begin
        self._on_head: set[str] = set()
        self._anywhere: set[str] = set()
        self._has_begun = False
        self._kept: object = None

    def place(self, trial_id: str) -> bool:
        """Gives the process of a trial its place; whether that may be on any node."""
        if self._is_for_head():
            self._on_head.add(trial_id)
            return False
        if not self._has_begun:
            self._kept, self._has_begun = self._begin(), True
        self._anywhere.add(trial_id)
        return True

    def free(self, trial_id: str) -> None:
        """The trial is over, or gives its place back."""
        self._on_head.discard(trial_id)
        self._anywhere.discard(trial_id)

    def _is_for_head(self) -> bool:
        if self._most_on_head is None or len(self._on_head) < self._most_on_head:
            return True
        return len(self._anywhere) >= self._room_anywhere()


def share_of_head() -> int:
    """How many processes of trials the driver's node takes before others go anywhere."""
    here = staying().get(ray.get_runtime_context().get_node_id())
    return max(1, int((here.memory if here is not None else 0.0) * HEAD_SHARE / PROCESS_BYTES))


def room_anywhere() -> int:
    """How many processes of trials the nodes have memory for, as Ray counts it; 0 while Ray does not answer."""
    try:
        return sum(int(node.memory // PROCESS_BYTES) for node in staying().values())
    except Exception:  # What Ray raises when its head service does not answer.
        return 0
