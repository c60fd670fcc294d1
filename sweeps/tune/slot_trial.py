"""Ray Tune's trial: a light process that leases a slot, asks the host to train to a step, and stores what comes back.

The process never imports torch. It stores the trial's snapshot and best adapter in the sweep's folder, so that the
trial can go on after anything but the loss of that folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from ray import tune
from ray.exceptions import ActorUnavailableError, ObjectLostError, RayError

from cluster import broker
from cluster.errors import LeaseOver
from cluster.hosts import PROCESS_LOST
from cluster.leases import Grant, Refused
from cluster.loop import Outcome
from sweeps import timeouts
from sweeps.errors import BudgetUsedUp, StorageError
from sweeps.record.events import TrialState
from sweeps.tune.actor_calls import RAY, Calls, ask
from sweeps.tune.trial_files import FolderFiles, KeptFiles, files_of
from sweeps.tune.trial_progress import Assignment, Progress
from trainables.contract import Evaluation, Failure, Opened, Report
from trainables.inputs.legible import legible

PROCESS_BYTES = 128 * 2**20
"""Memory of one trial process; see docs/speed.md."""
ON_HEAD = tune.PlacementGroupFactory([{"node:__internal_head__": 0.0001}])
"""Resources of a trial process on the head node: no CPU, because the process only waits. Ray counts no smaller share,
so a cluster runs at most 10,000 trial processes at once."""
ANYWHERE = tune.PlacementGroupFactory([{"memory": PROCESS_BYTES}])
"""Resources of a trial process on any node. Every node has memory, and Ray picks the node with the most free memory."""
Ask = Callable[..., Any]
"""Calls a method of the broker: the method's name, then its arguments."""


class NodeLeaves(Exception):  # noqa: N818 - reads as what happened
    """The node of the trial process ends soon. Tune then starts the trial in another process."""


class SlotTrial(tune.Trainable):
    """Ray Tune's trial. One `step` trains to the next report point."""

    _run: TrialRun | None
    """The trial in this process; None before the first step."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Returns the resources that Ray Tune requests for the trial process."""
        return ANYWHERE if config["is_anywhere"] else ON_HEAD

    def setup(self, config: dict[str, Any]) -> None:
        """Finds the broker. The first step loads the trial, because Tune may move it to another process."""
        self._run = None
        self._ask = partial(ask, ray.get_actor(broker.NAME))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepares this process for another trial. Ray Tune calls neither stop nor cleanup between two trials."""
        self.cleanup()
        self._run = None
        return True

    def step(self) -> dict[str, Any]:
        """Trains to the next report point and returns the result for Tune."""
        return in_order(self._train, self._final)

    def _train(self) -> dict[str, Any]:
        if self._run is None:
            self._run = TrialRun(Assignment.of(self.config), files_of(self.config), self._ask)
        return self._run.step()

    def _final(self, state: TrialState, reason: str) -> dict[str, Any]:
        return final(state, reason) if self._run is None else self._run.end(state, reason)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Does nothing, because the sweep's folder holds the trial's state."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Does nothing, because the first step reads the sweep's folder."""

    def cleanup(self) -> None:
        """Releases the slot. Ray may kill the process before, so the driver releases the slot too."""
        if self._run is not None:
            self._run.release()


def in_order(train: Callable[[], dict[str, Any]], end: Callable[[TrialState, str], dict[str, Any]]) -> dict[str, Any]:
    """Returns what `train` returns. An error ends the trial; Tune, which would start it again, never sees the error."""
    try:
        return train()
    except StorageError as error:
        # The disk failed, not the trial: the sweep ends in order, and the trial goes on when the sweep is resumed.
        ends = "budget" if isinstance(error, BudgetUsedUp) else "failed"
        return end(TrialState.PAUSED, legible(str(error))) | {"ends_sweep": ends}
    except NodeLeaves:
        raise  # Tune is to start the trial again.
    except Exception as error:
        return end(TrialState.FAILED, last_words(error))


def final(state: TrialState, reason: str, step: int = 0, history: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the last result of a trial for Tune."""
    return {"step": step, "state": state.value, "reason": reason, "history": list(history), "done": True}


def last_words(error: Exception) -> str:
    """Returns the exception's class and the last line of its text."""
    lines = str(error).strip().splitlines()
    return legible(f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__)


class TrialRun:
    """Runs one trial in this process, from the trial's state in the sweep's folder."""

    def __init__(self, assignment: Assignment, files: FolderFiles | KeptFiles, ask: Ask, calls: Calls = RAY) -> None:
        """Loads the trial."""
        saved = files.saved()
        self._assignment, self._files, self._ask, self._calls = assignment, files, ask, calls
        self._key = assignment.trial_key
        self._progress = Progress.of(assignment, saved)
        self._is_open = False
        """Whether the trial has held a slot and the driver knows."""
        self._grant: Grant | None = None
        self._trainable_params = 0
        self._unwritten: bytes | None = None
        """The latest snapshot, if budget.disk had no room for this snapshot."""
        self._pending: dict[str, Any] | None = None
        """A report that an earlier process made and that the driver may not have."""
        if saved.report is not None and saved.report.step > self._progress.reported:
            # The driver died after the snapshot was written and before the driver wrote the report.
            self._pending = self._tell(saved.report, saved.adapter)

    def step(self) -> dict[str, Any]:
        """Trains to the next report point and returns the result for Tune.

        Raises:
            StorageError: the sweep's folder cannot be written.
            NodeLeaves: only this node ends, and the trial goes on elsewhere.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            return pending
        if not self._is_open:
            return self._open()
        target = self._progress.target
        outcome = self._reach(target)
        if outcome is None:
            return self._stopped()
        if outcome.failure is not None or outcome.evaluation is None:
            failure = outcome.failure or Failure(kind="failed", message="no evaluation")
            return self.end(TrialState.after(failure), failure.message)
        report, adapter = self._keep(outcome, outcome.evaluation)
        if self._progress.is_last(target):
            self.release()
        return self._tell(report, adapter)

    def end(self, state: TrialState, reason: str) -> dict[str, Any]:
        """Releases the slot and returns the last result of the trial."""
        self.release()
        history = tuple(step.model_dump_json() for step in self._progress.history)
        return final(state, reason, self._progress.step, history)

    def release(self) -> None:
        """Releases the slot, if the trial holds one."""
        if self._grant is not None:
            lease, self._grant = self._grant.lease, None
            # The lease's id is needed: another process may have resumed the trial under another lease by now.
            self._ask("release", self._key, lease)

    def _open(self) -> dict[str, Any]:
        """Takes a slot and returns the result that tells Tune that the trial has begun."""
        opened = self._slot()
        if opened is None:
            return self._stopped()
        if isinstance(opened, Failure):
            return self.end(TrialState.after(opened), opened.message)
        self._is_open = True
        # The result has no metric, so no scheduler judges the trial (ray async_hyperband.py, on_trial_result, 2.60).
        return {"step": self._progress.step, "state": TrialState.RUNNING.value, "opened": True, "done": False}

    def _tell(self, report: Report, adapter: str | None) -> dict[str, Any]:
        done, self._progress = self._progress.is_last(report.step), self._progress.after_report(report)
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

    # The trial's own folder

    def _keep(self, outcome: Outcome, evaluation: Evaluation) -> tuple[Report, str | None]:
        """Writes rows, adapter and snapshot, in this order: a snapshot names only files that exist.

        Returns the report, and the adapter's folder if the adapter is the trial's best.
        """
        adapter, rows = None, evaluation.document()
        judged = self._progress.evaluated(outcome, evaluation, self._trainable_params, time.time())
        if judged.is_new:
            self._files.keep_rows(outcome.step, rows)
        if judged.is_best and outcome.adapter is not None:
            is_repeat = self._assignment.is_repeat
            before, answers = self._progress.best, evaluation.answers
            adapter = self._files.keep_best(outcome.step, outcome.adapter, rows, before, is_repeat, answers)
        self._progress = judged.progress
        self._save(outcome, judged.report, adapter)
        return judged.report, adapter

    def _save(self, outcome: Outcome, report: Report | None = None, adapter: str | None = None) -> None:
        """Writes the snapshot of an outcome, unless the trial is complete or budget.disk has no room."""
        self._progress, self._unwritten = self._progress.after_snapshot(outcome.step), None
        if outcome.snapshot is None or self._progress.is_last(outcome.step):
            return
        if not self._files.keep_snapshot(self._progress.saved(report, adapter), outcome.snapshot, self._progress.best):
            self._unwritten = outcome.snapshot

    def _latest(self) -> bytes | None:
        """Returns the snapshot that the trial goes on from. Reads it from disk, because it is large."""
        return self._unwritten if self._unwritten is not None else self._files.snapshot()

    # The slot

    def _slot(self) -> Opened | Failure | None:
        """Puts the trial into a slot; tries again after each lost host. Returns None if the trial is to leave."""
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
        """Returns the outcome at `target`; goes on after each lost host. Returns None if the trial is to leave."""
        while self._goes_on():
            try:
                outcome = self._advance(target)
            except PROCESS_LOST as error:
                self._host_lost(error)
                continue
            except ObjectLostError:
                # A large answer was lost with the node that held it. The host, if it is alive, answers again.
                continue
            except LeaseOver:
                # The broker ended the lease: this process was silent for too long, or the host is a new one.
                self._grant = None
                continue
            if outcome is None:
                continue
            self._progress = self._progress.with_steps(outcome.history)
            if outcome.failure is not None:
                return outcome
            self._ask("reached", self._key)
            if outcome.evaluation is not None:
                return outcome
            self._save(outcome)
            if outcome.must_move:
                self.release()
        return self._leave()

    def _leave(self) -> Outcome | None:
        """Saves the trial at its present step. Returns the outcome if the trial stands at a report point or failed."""
        if self._grant is None:
            return None
        try:
            saving = self._grant.host.save.remote(self._grant.lease, self._progress.known)
            outcome: Outcome = self._calls.answer(saving)
        except RayError:
            return None  # The trial goes on from the snapshot before.
        self._progress = self._progress.with_steps(outcome.history)
        if outcome.evaluation is not None or outcome.failure is not None:
            return outcome
        if outcome.snapshot is not None and outcome.step > self._progress.step:
            self._save(outcome)
        return None

    def _advance(self, target: int) -> Outcome | None:
        """Calls the host once, after taking a lease if the trial has none. Returns None while there is no outcome."""
        if self._grant is None:
            opened = self._lease()
            if isinstance(opened, Failure):
                return Outcome(step=self._progress.step, failure=opened)
            if self._grant is None:
                return None
        progress, objective = self._progress, self._assignment.objective
        call = self._grant.host.advance.remote(
            self._grant.lease, target, progress.best, progress.known, timeouts.CALL_SECONDS, objective
        )
        outcome: Outcome | None = self._calls.answer(call)
        return outcome

    def _lease(self) -> Opened | Failure | None:
        """Waits `CALL_SECONDS` for a slot and puts the trial into the slot. Returns None if no slot was free."""
        granted = self._ask("acquire", self._key, timeouts.CALL_SECONDS)
        if granted is None:
            return None
        if isinstance(granted, Refused):
            return Failure(kind="failed", message=granted.message)
        self._grant = granted
        opened = self._put_into(granted)
        if opened is None:
            self.release()
        elif isinstance(opened, Opened):
            self._trainable_params = opened.trainable_params
            if opened.step > self._progress.step:  # the steps in between would never be reported
                unread = f"the snapshot of {self._key} at step {opened.step} could not be read a moment ago"
                raise StorageError(f"{unread}: go on with qsweep resume")
        return opened

    def _put_into(self, granted: Grant) -> Opened | Failure | None:
        """Puts the trial into its slot. Returns None if the trial is to leave meanwhile, or if the lease has ended."""
        opening = granted.host.open.remote(granted.lease, self._assignment.spec, self._latest())
        # The host may finish a long step first. `_goes_on` renews the lease meanwhile.
        while not self._calls.is_answered(opening, timeouts.CALL_SECONDS):
            if not self._goes_on():
                return None
        try:
            opened: Opened | Failure = self._calls.answer(opening)
        except LeaseOver:
            self._calls.pause(timeouts.RETRY_SECONDS)  # before the next request for a lease
            return None
        return opened

    def _goes_on(self) -> bool:
        """Tells whether the trial should go on in this process, and renews the lease."""
        return bool(self._ask("goes_on", self._key, self._files.node_id))

    def _stopped(self) -> dict[str, Any]:
        """Returns the last result of a trial that is to leave. Raises NodeLeaves if only this node ends."""
        self.release()
        away = self._files.node_id
        if away and self._ask("goes_on", self._key):
            raise NodeLeaves(f"the node {away} leaves the cluster")
        return self.end(TrialState.PAUSED, "the sweep is stopping")

    def _host_lost(self, error: Exception) -> None:
        """Tells the broker that a call did not reach the host. Keeps the lease if the host may still be alive."""
        if self._grant is None:
            return
        granted, self._grant = self._grant, None
        is_away = bool(self._files.node_id)
        # Ray cannot tell whether the process is gone (ray/exceptions.py, 2.60): the network may fail for a moment.
        is_unavailable = isinstance(error, ActorUnavailableError)
        if not (is_away or is_unavailable):
            self._ask("lost", granted.host_id)
            return
        # Only the connection from this node may be cut, while other trials train on the host.
        self._ask("not_reached", granted.host_id)
        self._calls.pause(timeouts.RETRY_SECONDS)
        self._grant = granted if is_unavailable and not is_away else None
