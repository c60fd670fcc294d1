"""A trial as Ray Tune sees it: a light process that leases a slot, names target steps, and keeps what comes back.

It never imports torch. It brings the trial's snapshot and best adapter into the sweep's folder, so that a trial can go
on after anything but the loss of that folder.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import ray
from ray import tune
from ray.exceptions import ObjectLostError, RayError

from cluster import broker
from cluster.errors import LeaseOver
from cluster.hosts import PROCESS_LOST
from cluster.leases import Grant, Refused
from cluster.loop import Outcome
from sweeps.errors import BudgetUsedUp, StorageError
from sweeps.record import snapshots
from sweeps.record.events import TrialState
from sweeps.schedulers import next_point
from sweeps.tune import trial_places
from sweeps.tune.broker_calls import WAIT_SECONDS, NodeLeaves, ask, last_words, open_lease, tell_lost
from sweeps.tune.folder_keeper import files_of
from trainables.contract import Evaluation, Failure, Opened, Report, StepRecord
from trainables.inputs.legible import legible
from trainables.objective import Objective


class SlotTrial(tune.Trainable):
    """Ray Tune's trial. One `step` trains to the next report point."""

    _pending: dict[str, Any] | None
    """A report that was made before and may not have arrived."""
    _trouble: Exception | None
    """Why the trial could not be taken up."""
    _is_unevaluated: bool
    """The trial stands at a report point that it was not evaluated at: it must not go on past it."""
    _unwritten: bytes | None
    """The latest snapshot, when budget.disk had no room for it."""
    _away: str = ""
    """Ray's id of this process's node, when it may be another one than the driver's."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Ray Tune asks of Ray for the trial's process."""
        return trial_places.ANYWHERE if config["is_anywhere"] else trial_places.ON_HEAD

    def setup(self, config: dict[str, Any]) -> None:
        """Takes up the trial where its folder left it."""
        self._ask = partial(ask, ray.get_actor(broker.NAME))
        self._take_up(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Makes this process another trial's; Ray Tune calls neither stop nor cleanup in between."""
        self._release()
        self._take_up(new_config)
        return True

    def _take_up(self, config: dict[str, Any]) -> None:
        self._trouble = None
        try:
            self._begin(config)
        except Exception as error:
            # `step` tells: raised here, it would make Tune start the trial again.
            self._trouble = error

    def step(self) -> dict[str, Any]:
        """Trains to the next report point and says what came of it."""
        try:
            return self._train()
        except StorageError as error:
            # Not the trial's fault: the sweep ends in order, and the trial goes on with it.
            ends = "budget" if isinstance(error, BudgetUsedUp) else "failed"
            return self._final(TrialState.PAUSED, legible(str(error))) | {"ends_sweep": ends}
        except NodeLeaves:
            raise
        except Exception as error:
            # Not Tune's business: it would start the trial again.
            return self._final(TrialState.FAILED, last_words(error))

    def _train(self) -> dict[str, Any]:
        if self._trouble is not None:
            raise self._trouble
        if self._pending is not None:
            pending = self._pending
            self._pending = None
            return pending
        if not self._is_open:
            return self._open()
        target = self._step if self._is_unevaluated else next_point(self._points, self._step)
        assert target is not None, "a trial at its last point is not asked to train"
        outcome = self._reach(target)
        if outcome is None:
            return self._stopped()
        if outcome.failure is not None or outcome.evaluation is None:
            failure = outcome.failure or Failure(kind="failed", message="no evaluation")
            return self._final(TrialState.after(failure), failure.message)
        report, adapter = self._keep(outcome, outcome.evaluation)
        if target == self._points[-1]:
            self._release()
        return self._told(report, adapter)

    def _open(self) -> dict[str, Any]:
        """Takes a slot and says so: only then the trial has begun."""
        opened = self._slot()
        if opened is None:
            return self._stopped()
        if isinstance(opened, Failure):
            return self._final(TrialState.after(opened), opened.message)
        self._is_open = True
        # Without the metric: no scheduler judges it (ray async_hyperband.py, on_trial_result, 2.60).
        return {"step": self._step, "state": TrialState.RUNNING.value, "opened": True, "done": False}

    def _told(self, report: Report, adapter: str | None) -> dict[str, Any]:
        done, self._reported = report.step == self._points[-1], report.step
        return {
            **report.metrics,
            "step": report.step,
            "state": (TrialState.COMPLETED if done else TrialState.RUNNING).value,
            "report": report.model_dump_json(),
            "adapter": adapter,
            "adapter_sha256": None if adapter is None else self._files.digest(adapter),
            "is_saved": self._unwritten is None,
            "done": done,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the sweep's folder has it all."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: `setup` has read the sweep's folder."""

    def cleanup(self) -> None:
        """Gives the slot back. Best effort: Ray may kill the process first, so the driver tells the broker too."""
        self._release()

    # The trial's own folder

    def _begin(self, config: dict[str, Any]) -> None:
        self._grant: Grant | None = None
        self._is_open = False
        self._step = 0
        self._history: list[StepRecord] = []
        self._key: str = config["trial_key"]
        self._spec: str = config["spec"]
        self._points: tuple[int, ...] = tuple(config["points"])
        self._examples: dict[int, int] = dict(zip(self._points, config.get("examples", ()), strict=False))
        self._objective = Objective.model_validate(config["objective"])
        self._is_repeat = config["repeats"] is not None
        self._files = files_of(config)
        self._away = self._files.node_id
        self._trainable_params = 0
        progress = self._files.saved()
        self._unwritten = None
        self._step = progress.step
        self._is_unevaluated = progress.step in self._points and progress.report is None
        # A trial that goes on from before its last report keeps the best adapter that the log names, and its files.
        self._reported = config["reported"]["step"]
        known = config["reported"] if progress.step <= self._reported else progress.model_dump()
        self._best_step, self._best_metrics = known["best_step"], known["best_metrics"]
        self._history = list(progress.history)
        self._pending = None
        if progress.report is not None and progress.report.step > self._reported:
            # The driver died between this trial's snapshot and its report.
            self._pending = self._told(progress.report, progress.adapter)

    @property
    def _best(self) -> float:
        """The best value of the objective so far."""
        return self._objective.worst if self._best_metrics is None else self._objective.of(self._best_metrics)

    def _keep(self, outcome: Outcome, evaluation: Evaluation) -> tuple[Report, str | None]:
        """Writes rows, adapter and snapshot, in this order: a snapshot knows of nothing that is not there."""
        value = self._objective.of(evaluation.metrics)
        adapter, rows = None, evaluation.document()
        is_new = outcome.step > self._reported
        if is_new:
            self._files.keep_rows(outcome.step, rows)
        if is_new and self._objective.is_better(value, self._best) and outcome.adapter is not None:
            loss = self._objective.loss(self._best)
            adapter = self._files.keep_best(outcome.step, outcome.adapter, rows, loss, self._is_repeat)
            self._best_metrics, self._best_step = evaluation.metrics, outcome.step
        history, self._history = tuple(self._history), []
        last = history[-1]
        report = Report(
            step=outcome.step,
            metrics=evaluation.metrics,
            best_step=self._best_step,
            best_metrics=self._best_metrics,
            history=history,
            tokens=last.tokens,
            seconds=last.seconds,
            peak_memory_bytes=outcome.peak_memory_bytes,
            trainable_params=self._trainable_params,
            time=time.time(),
            resource=self._examples.get(outcome.step),
        )
        self._save(outcome, report, adapter)
        return report, adapter

    def _save(self, outcome: Outcome, report: Report | None = None, adapter: str | None = None) -> None:
        """Writes the snapshot of an outcome, if the trial has more steps to do and budget.disk has room."""
        self._step, self._is_unevaluated, self._unwritten = outcome.step, False, None
        if outcome.snapshot is None or self._step == self._points[-1]:
            return
        progress = snapshots.SavedTrial(
            step=self._step,
            best_step=self._best_step,
            best_metrics=self._best_metrics,
            history=tuple(self._history),
            report=report,
            adapter=adapter,
        )
        if not self._files.keep_snapshot(progress, outcome.snapshot, self._objective.loss(self._best)):
            self._unwritten = outcome.snapshot

    # The slot

    def _slot(self) -> Opened | Failure | None:
        """The trial in a slot, whatever happens to hosts on the way; None when the sweep is stopping."""
        while self._goes_on():
            try:
                opened = self._lease()
            except PROCESS_LOST as error:
                self._host_lost(error)
                continue
            if opened is not None:
                return opened
        return None

    def _reach(self, target: int) -> Outcome | None:
        """The outcome at `target`, whatever happens to hosts on the way; None when the sweep is stopping."""
        while self._goes_on():
            try:
                outcome = self._advance(target)
            except PROCESS_LOST as error:
                self._host_lost(error)
                continue
            except ObjectLostError:
                # A large answer, with the node that held it: the host gives it again, if it is still there.
                continue
            except LeaseOver:
                # The lease is over: this process was not heard of for too long, or the host is a new one.
                self._grant = None
                continue
            if outcome is None:
                continue
            self._remember(outcome)
            if outcome.failure is not None:
                return outcome
            self._ask("reached", self._key)
            if outcome.evaluation is not None:
                return outcome
            self._save(outcome)
            if outcome.moves:
                self._release()
        return self._leave()

    def _leave(self) -> Outcome | None:
        """Saves the trial where it stands, so that it loses no step to a stop; answers a report point reached there."""
        if self._grant is None:
            return None
        try:
            outcome: Outcome = ray.get(self._grant.host.save.remote(self._grant.lease, self._known()))
        except RayError:
            return None  # It goes on from the snapshot before.
        self._remember(outcome)
        if outcome.evaluation is not None or outcome.failure is not None:
            return outcome
        if outcome.snapshot is not None and outcome.step > self._step:
            self._save(outcome)
        return None

    def _remember(self, outcome: Outcome) -> None:
        """Takes in the steps that are new: on another host, steps since the snapshot are trained a second time."""
        self._history += [step for step in outcome.history if step.step > self._known()]

    def _known(self) -> int:
        """The last step that this process has the history of."""
        return self._history[-1].step if self._history else self._step

    def _advance(self, target: int) -> Outcome | None:
        """One call to the host, with a lease taken first if there is none; None while there is nothing to tell."""
        if self._grant is None:
            opened = self._lease()
            if isinstance(opened, Failure):
                return Outcome(step=self._step, failure=opened)
            if self._grant is None:
                return None
        call = self._grant.host.advance.remote(
            self._grant.lease, target, self._best, self._known(), WAIT_SECONDS, self._objective
        )
        outcome: Outcome | None = ray.get(call)
        return outcome

    def _lease(self) -> Opened | Failure | None:
        """Waits a moment for a slot and puts the trial into it; None when there was none."""
        granted = self._ask("acquire", self._key, WAIT_SECONDS)
        if granted is None:
            return None
        if isinstance(granted, Refused):
            return Failure(kind="failed", message=granted.message)
        self._grant = granted
        opened = open_lease(granted, self._spec, self._latest(), self._goes_on)
        if opened is None:
            self._release()
        elif isinstance(opened, Opened):
            self._trainable_params = opened.trainable_params
            if opened.step > self._step:  # nobody would hear of the steps in between
                unread = f"the snapshot of {self._key} at step {opened.step} could not be read a moment ago"
                raise StorageError(f"{unread}: go on with qsweep resume")
        return opened

    def _latest(self) -> bytes | None:
        """What the trial goes on from. Read anew: in memory, it would weigh as much as the trial's optimizer."""
        return self._unwritten if self._unwritten is not None else self._files.snapshot()

    def _goes_on(self) -> bool:
        """Whether the trial should go on in this process; renews its lease."""
        return bool(self._ask("goes_on", self._key, self._away))

    def _stopped(self) -> dict[str, Any]:
        """What a trial says at the end of its process.

        Raises:
            NodeLeaves: only this node ends, and the trial goes on elsewhere.
        """
        self._release()
        if self._away and self._ask("goes_on", self._key):
            raise NodeLeaves(f"the node {self._away} leaves the cluster")
        return self._final(TrialState.PAUSED, "the sweep is stopping")

    def _host_lost(self, error: Exception) -> None:
        if self._grant is not None:
            granted, self._grant = self._grant, None
            self._grant = granted if tell_lost(self._ask, granted.host_id, error, bool(self._away)) else None

    def _release(self) -> None:
        if self._grant is not None:
            lease, self._grant = self._grant.lease, None
            # By its id: the trial may be parked, resumed in another process and hold another lease by now.
            self._ask("release", self._key, lease)

    def _final(self, state: TrialState, reason: str) -> dict[str, Any]:
        self._release()
        history = [step.model_dump_json() for step in self._history]
        return {"step": self._step, "state": state.value, "reason": reason, "history": history, "done": True}
