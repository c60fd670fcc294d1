"""Ray Tune's searcher: hands out the trials of a sweep, and keeps no more trials live than there are slots.

A free slot goes to an interrupted trial first, then to a trial that somebody asked for, then to the trial that the rule
names: a parked trial or a new one. The trial process goes to the head, or to any node once the head's share is used up.
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
"""Share of the head's memory, as Ray counts it, that trial processes may take."""


class TrialQueue(Searcher):
    """Hands the trials of a `TrialSource` to Ray Tune.

    Tune's own ConcurrencyLimiter has a fixed limit, but the slots of a cluster change while a sweep runs.
    """

    def __init__(
        self,
        source: TrialSource,
        settings: Callable[[TrialSpec], dict[str, Any]],
        slots: Callable[[], int],
        trials: SweepTrials,
        places: ProcessPlaces,
    ) -> None:
        """Creates the queue.

        Args:
            source: gives new trials, interrupted trials, and trials that somebody asks for.
            settings: returns the entries of a trial's configuration that do not describe the trial itself, such as its
                report points and the sweep's folder.
            slots: returns the present number of slots.
            trials: the trials that have begun. Their rule decides who gets a free slot, and their `stop` tells whether
                the sweep is to end: then no trial begins.
            places: gives each trial process its place.
        """
        super().__init__()
        self._trials, self._rule, self._stop = trials, trials.rule, trials.stop
        self._places = places
        self._begun = trials.parked()
        """Trial key -> trial, for all trials that the rule may resume."""
        self._interrupted = trials.interrupted()
        self._source = source
        self._settings = settings
        self._slots = slots
        self._live: dict[str, str] = {}
        """Tune's id -> trial key, for all trials that were handed out and are not over."""
        self._repeating: set[str] = set()
        """Tune's ids of the repeats that were handed out."""

    @property
    def live(self) -> int:
        """Returns the number of trials that were handed out and are not over."""
        return len(self._live)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Returns True and ignores the arguments: `TrialSource` has its own metric and space."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns the next trial's configuration; None if no slot is free; FINISHED if there are no more trials."""
        if self._stop.reason is not None:
            return FINISHED
        if self._live and len(self._live) >= self._slots():
            # A live trial waits for a slot by itself. Without a live trial the sweep must be able to end.
            return None
        trial = self._next()
        if trial is None and self._live:
            # A live trial may turn out infeasible and be replaced, or its report may let a parked trial go on.
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
        """Returns the trial that gets a free slot; None if no trial gets the slot now."""
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
        # Repeats begin once no other trial trains, because only then the best trials are known.
        return self._source.repeat(self._trials.journal.record) if self._live.keys() <= self._repeating else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Frees the place of the trial process."""
        self._live.pop(trial_id, None)
        self._places.free(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing, because the event log holds the state of the sweep."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing; see `save`."""


class ProcessPlaces:
    """Gives trial processes their places: on the head, or on any node."""

    def __init__(
        self,
        on_head: int | None,
        room_anywhere: Callable[[], int] = lambda: 0,
        begin: Callable[[], object] = lambda: None,
    ) -> None:
        """Starts with all places free.

        Args:
            on_head: processes on the head before further ones go to any node; None: all are on the head.
            room_anywhere: returns how many processes fit on the cluster beside the head's share. Further processes go
                to the head too, since they would wait for ever elsewhere.
            begin: called before the first process goes to any node. Its result is kept, because Ray ends an actor
                without a handle.
        """
        self._most_on_head = on_head
        self._room_anywhere, self._begin = room_anywhere, begin
        self._on_head: set[str] = set()
        self._anywhere: set[str] = set()
        self._has_begun = False
        self._kept: object = None

    def place(self, trial_id: str) -> bool:
        """Gives a trial process its place; returns whether the process may be on any node."""
        if self._is_for_head():
            self._on_head.add(trial_id)
            return False
        if not self._has_begun:
            self._kept, self._has_begun = self._begin(), True
        self._anywhere.add(trial_id)
        return True

    def free(self, trial_id: str) -> None:
        """Frees the place of a trial process."""
        self._on_head.discard(trial_id)
        self._anywhere.discard(trial_id)

    def _is_for_head(self) -> bool:
        if self._most_on_head is None or len(self._on_head) < self._most_on_head:
            return True
        return len(self._anywhere) >= self._room_anywhere()


def share_of_head() -> int:
    """Returns how many trial processes the driver's node takes before further ones go to any node."""
    here = staying().get(ray.get_runtime_context().get_node_id())
    return max(1, int((here.memory if here is not None else 0.0) * HEAD_SHARE / PROCESS_BYTES))


def room_anywhere() -> int:
    """Returns how many trial processes fit into the memory of all nodes; 0 while Ray does not answer."""
    try:
        return sum(int(node.memory // PROCESS_BYTES) for node in staying().values())
    except Exception:  # What Ray raises when its head service does not answer.
        return 0
