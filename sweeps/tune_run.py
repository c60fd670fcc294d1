"""The sweep on Ray Tune: hosts and broker, searcher and scheduler, stop and end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError
from ray.tune import PlacementGroupFactory, Stopper
from ray.tune.search.search_generator import SearchGenerator

from cluster import broker
from cluster.errors import HostError
from cluster.hosts import HostFacts, Room
from search_spaces.space import SearchSpace
from sweeps.config import SweepConfig
from sweeps.folder import SweepFolder, read_events
from sweeps.journal import Journal
from sweeps.lifecycle import DataPrepared, SweepEnded, TrialEnded, TrialReported, TrialState
from sweeps.stop import StopRequest
from sweeps.trials import TrialSource
from sweeps.tune_callback import STOPPED_BY_SCHEDULER, JournalCallback
from sweeps.tune_search import Reported, TrialQueue
from sweeps.tune_trial import SlotTrial
from trainables import registry

PROXY_CPUS = 0.05
"""Logical CPUs of a trial's own process: it only waits."""


@dataclass
class Driver:
    """One sweep in this process, connected to Ray."""

    config: SweepConfig
    folder: SweepFolder
    journal: Journal
    stop: StopRequest
    clock: Callable[[], float] = time.time
    hosts: tuple[HostFacts, ...] = field(default=(), init=False)
    _broker: Any = field(default=None, init=False)

    def start_hosts(self, room: Room) -> broker.Ready:
        """Starts broker and hosts; the data is prepared on the way.

        Raises:
            HostError: no host can run; the message says what to mend.
        """
        self._broker = broker.create(self.config.base, room, self.config.cluster.hosts)
        starting = self._broker.start.remote()
        answer: broker.Ready | broker.NotReady | None = None
        while answer is None:
            done, _ = ray.wait([starting], timeout=0.5)
            if self.stop.reason is not None:
                raise KeyboardInterrupt
            answer = ray.get(starting) if done else None
        if isinstance(answer, broker.NotReady):
            raise HostError(answer.message)
        self.hosts = answer.hosts
        summary = answer.data.model_dump()
        self.journal.add(DataPrepared(time=self.clock(), summary=summary))
        return answer

    def run(self, space: SearchSpace, slots: int) -> None:
        """Runs the trials to the end of the budget, or until someone stops the sweep."""
        steps = self.config.budget.steps_per_trial
        scheduler = self.config.scheduler.build(steps, self.config.searcher.start_with_default)
        self._settle(scheduler)
        known = {key: trial.state for key, trial in self.journal.record.trials.items()}
        fingerprints = registry.find(self.config.trainable).fingerprint(self.config.base)
        source = TrialSource(self.config, space, fingerprints, known)
        shared = {"dir": str(self.folder.path), "points": list(self.config.scheduler.points(steps))}
        reported = {
            key: Reported(trial.step, trial.best_step, trial.best_eval_loss)
            for key, trial in self.journal.record.trials.items()
            if trial.best_step is not None
        }
        queue = TrialQueue(source, shared, self._slots, reported)
        # A searcher without Tune's own limiter is given one pending trial at a time unless told otherwise.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)
        # Not tune.Tuner: it pickles searcher and callbacks into storage for its own restore, which is not used here.
        tune.run(
            SlotTrial,
            name="tune",
            metric="eval_loss",
            mode="min",
            storage_path=str(self.folder.path),
            num_samples=-1,
            search_alg=SearchGenerator(queue),
            scheduler=scheduler,
            resources_per_trial=PlacementGroupFactory([{"CPU": PROXY_CPUS, "node:__internal_head__": 0.001}]),
            reuse_actors=True,
            max_failures=-1,
            stop=_Stop(self.stop, self._close),
            callbacks=[JournalCallback(self.journal, self.clock, self._reported, self._trial_ended)],
            raise_on_failed_trial=False,
            verbose=0,
            log_to_file=False,
        )

    def end(self, failed: str | None = None) -> None:
        """Says of every trial and of the sweep how it ended."""
        over = self.stop.reason == "budget" and failed is None
        why = failed or ("budget.wall_clock is used up" if over else "interrupted")
        for trial in list(self.journal.record.trials.values()):
            if not trial.state.is_final:
                self.journal.add(_left_over(trial.trial_key, self.clock(), why, paused=not over))
        reason = "failed" if failed is not None else self.stop.reason or "finished"
        self.journal.add(SweepEnded(time=self.clock(), reason=reason, message=failed or ""))

    def _settle(self, scheduler: Any) -> None:
        """Gives a scheduler the reports of earlier drivers, and ends trials whose end those did not live to write."""
        trials = self.journal.record.trials
        reports = [
            (event.trial_key, event.report.step, event.report.eval_loss)
            for event, _ in read_events(self.folder.events)
            if isinstance(event, TrialReported)
        ]
        stopped = self.config.scheduler.replay(scheduler, reports)
        for trial in list(trials.values()):
            if trial.state.is_final:
                continue
            if trial.step == self.config.budget.steps_per_trial:
                ended = TrialState.COMPLETED, ""
            elif trial.trial_key in stopped and not (trial.number == 0 and self.config.searcher.start_with_default):
                ended = TrialState.STOPPED, STOPPED_BY_SCHEDULER
            else:
                continue
            self.journal.add(TrialEnded(time=self.clock(), trial_key=trial.trial_key, state=ended[0], reason=ended[1]))
            self.folder.drop(trial.trial_key, "snapshot")

    def _slots(self) -> int:
        try:
            slots: int = ray.get(self._broker.slots.remote())
        except RayActorError:
            return 0  # The broker is being made anew: nothing begins until it is there.
        return slots

    def _reported(self, trial_key: str, adapter: str | None) -> None:
        if adapter is not None:
            # Not before: the journal has named the older one until now.
            self.folder.prune(trial_key, "best", self.folder.path / adapter)

    def _trial_ended(self, trial_key: str) -> None:
        self._broker.release.remote(trial_key)
        self.folder.drop(trial_key, "snapshot")

    def _close(self) -> None:
        self._broker.stop.remote()


class _Stop(Stopper):
    """Ends the Tune run when someone asked for it."""

    def __init__(self, request: StopRequest, close: Callable[[], None]) -> None:
        self._request = request
        self._close = close
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its stopper into every snapshot, and none is ever read."""
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        if self._request.check() is None:
            return False
        if not self._closed:
            self._closed = True
            self._close()
        return True


def _left_over(trial_key: str, now: float, reason: str, paused: bool) -> TrialEnded:
    """A trial that was not over when the sweep ended: it goes on with `resume`, or the budget has stopped it."""
    state = TrialState.PAUSED if paused else TrialState.STOPPED
    return TrialEnded(time=now, trial_key=trial_key, state=state, reason=reason, by_person_or_budget=True)
