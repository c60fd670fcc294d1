"""Ray Tune's searcher: hands out the trials of a sweep, and keeps no more trials live than there are slots.

A free slot goes to an interrupted trial first, then to a trial that somebody asked for, then to the trial that the rule
names: a parked trial or a new one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.search import Searcher

from cluster.nodes import staying
from sweeps.schedulers import Idle, Resume
from sweeps.supply import base_turns
from sweeps.supply.base_turns import TrialWork
from sweeps.supply.trial_source import PlannedTrial, TrialSource
from sweeps.tune.host_news import HostBases
from sweeps.tune.sweep_trials import SweepTrials
from sweeps.tune.trial_stub import PROCESS_BYTES
from trainables.specs import TrialSpec

FINISHED: str = Searcher.FINISHED


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
        room: Callable[[], int] = lambda: 0,
        bases: HostBases | None = None,
    ) -> None:
        """Creates the queue.

        Args:
            source: gives new trials, interrupted trials, and trials that somebody asks for.
            settings: returns the entries of a trial's configuration that do not describe the trial itself, such as its
                report points and the sweep's folder.
            slots: returns the present number of slots.
            trials: the trials that have begun. Their rule decides who gets a free slot, and their `stop` tells whether
                the sweep is to end: then no trial begins.
            room: returns how many stubs may be on any node. Further stubs go to the head: they would wait for ever
                elsewhere.
            bases: the bases that hosts hold. None if all trials are on one base.
        """
        super().__init__()
        self._trials, self._rule, self._stop = trials, trials.rule, trials.stop
        self._room = room
        self._begun = trials.parked()
        """Trial key -> trial, for all trials that the rule may resume."""
        self._interrupted = trials.interrupted()
        self._source = source
        self._settings = settings
        self._slots = slots
        self._bases = bases
        self._pool: list[PlannedTrial] = []
        """New trials that were drawn while no host with their base had a free slot."""
        self._live: dict[str, str] = {}
        """Tune's id -> trial key, for all trials that were handed out and are not over."""
        self._anywhere: set[str] = set()
        """Tune's ids of the live trials whose stubs may be on any node."""
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
        by_base = None if self._bases is None else self._bases.slots()
        slots = self._slots() if by_base is None else sum(by_base.values())
        if self._live and len(self._live) >= slots:
            # A live trial waits for a slot by itself. Without a live trial the sweep must be able to end.
            return None
        trial = self._next(by_base)
        if trial is None and self._live:
            # A live trial may turn out infeasible and be replaced, or its report may let a parked trial go on.
            return None
        trial = trial or self._stop.last_call(lambda: self._next(by_base))
        if trial is None:
            return FINISHED
        self._live[trial_id] = trial.trial_key
        if trial.repeats is not None:
            self._repeating.add(trial_id)
        self._begun[trial.trial_key] = trial
        if self._bases is not None:
            self._bases.expect(trial.trial_key, trial.spec)
        is_in_tail = self._trials.begin(trial)
        is_anywhere = len(self._anywhere) < self._room()
        if is_anywhere:
            self._anywhere.add(trial_id)
        return {
            **self._settings(trial.spec),
            "has_all_rows": self._trials.protects(trial.number),
            "trial_key": trial.trial_key,
            "reported": self._trials.last_report(trial.trial_key)._asdict(),
            "run": self._trials.next_run(),
            "number": trial.number,
            "params": dict(trial.params),
            "repeats": trial.repeats,
            "is_in_tail": is_in_tail,
            "point": dict(trial.point),
            "spec": trial.spec.model_dump_json(),
            "is_anywhere": is_anywhere,
        }

    def _next(self, by_base: Mapping[str, int] | None) -> PlannedTrial | None:
        """Returns the trial that gets a free slot; None if no trial gets the slot now."""
        if self._interrupted:
            trial = self._source.next(self._trials.journal.record)
            self._interrupted = self._interrupted - {trial.trial_key} if trial is not None else set()
            if trial is not None:
                return trial
        added = self._source.added(self._trials.journal.record)
        if added is not None:
            return added
        if by_base is not None:
            trial = self._next_by_base(by_base)
            return trial or self._repeat()
        work = self._rule.next(is_exhausted=False)
        if work is Idle.NEW:
            trial = self._source.next(self._trials.journal.record)
            if trial is not None:
                return trial
            work = self._rule.next(is_exhausted=True)
        if isinstance(work, Resume):
            return self._begun[work.trial]
        return self._repeat()

    def _next_by_base(self, slots: Mapping[str, int]) -> PlannedTrial | None:
        """Returns the new or parked trial that gets a free slot, or that waits for a host to change its base."""
        live = [self._work(self._begun[key]) for key in self._live.values()]
        taken = Counter(work.base for work in live)
        free = {base for base, count in slots.items() if count > taken[base]}
        self._pool = self._source.still_due(self._pool, self._trials.journal.record)
        while not self._pool or (free and all(trial.spec.base_name not in free for trial in self._pool)):
            drawn = self._source.next(self._trials.journal.record)
            if drawn is None:
                break
            self._pool.append(drawn)
        parked = list(self._rule.resumable())
        work = self._rule.next(is_exhausted=True)
        if not parked and not self._pool and isinstance(work, Resume):
            parked = [work.trial]
        due = {trial.trial_key: trial for trial in (*self._pool, *(self._begun[key] for key in parked))}
        chosen = base_turns.choose([self._work(trial) for trial in due.values()], live, slots)
        if chosen is None:
            return None
        self._pool = [trial for trial in self._pool if trial.trial_key != chosen.trial]
        return due[chosen.trial]

    def _work(self, trial: PlannedTrial) -> TrialWork:
        key = trial.trial_key
        return TrialWork(key, trial.spec.base_name, self._rule.resource(key) if self._rule.status(key) else 0)

    def _repeat(self) -> PlannedTrial | None:
        # Repeats begin once no other trial trains, because only then the best trials are known.
        return self._source.repeat(self._trials.journal.record) if self._live.keys() <= self._repeating else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Frees the place of the stub."""
        self._live.pop(trial_id, None)
        self._anywhere.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing, because the event log holds the state of the sweep."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing; see `save`."""


def room_anywhere() -> int:
    """Returns how many stubs fit into the memory of all nodes; 0 while Ray does not answer."""
    try:
        return sum(int(node.memory // PROCESS_BYTES) for node in staying().values())
    except Exception:  # What Ray raises when its head service does not answer.
        return 0
