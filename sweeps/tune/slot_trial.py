"""A trial as Ray Tune sees it: a light process that leases a slot, names target steps, and keeps what comes back.

It never imports torch. It brings the trial's snapshot and best adapter into the sweep's folder, so that a trial can go
on after anything but the loss of that folder.
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
"""Memory of one trial's process; see docs/speed.md."""
ON_HEAD = tune.PlacementGroupFactory([{"node:__internal_head__": 0.0001}])
"""What a trial's process takes there: a place, and no CPU, since it only waits. Ray counts no smaller share: 10,000
processes at once on a cluster."""
ANYWHERE = tune.PlacementGroupFactory([{"memory": PROCESS_BYTES}])
"""What it takes otherwise. Memory, since every node has some: Ray then takes the node that has the most of it free."""
Ask = Callable[..., Any]
"""Asks the broker: the name of its method, and the arguments."""


class NodeLeaves(Exception):  # noqa: N818 - reads as what happened
    """The node of a trial's process ends soon: Tune starts the trial in another process."""


class SlotTrial(tune.Trainable):
    """Ray Tune's trial. One `step` trains to the next report point."""

    _run: TrialRun | None
    """The trial of this process; None until its first step."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Ray Tune asks of Ray for the trial's process."""
        return ANYWHERE if config["is_anywhere"] else ON_HEAD

    def setup(self, config: dict[str, Any]) -> None:
        """Finds the broker. The trial is taken up by the first step: Tune may give it to another process before."""
        self._run = None
        self._ask = partial(ask, ray.get_actor(broker.NAME))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Makes this process another trial's; Ray Tune calls neither stop nor cleanup in between."""
        self.cleanup()
        self._run = None
        return True

    def step(self) -> dict[str, Any]:
        """Trains to the next report point and says what came of it."""
        return in_order(self._train, self._final)

    def _train(self) -> dict[str, Any]:
        if self._run is None:
            self._run = TrialRun(Assignment.of(self.config), files_of(self.config), self._ask)
        return self._run.step()

    def _final(self, state: TrialState, reason: str) -> dict[str, Any]:
        return final(state, reason) if self._run is None else self._run.end(state, reason)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the sweep's folder has it all."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the first step reads the sweep's folder."""

    def cleanup(self) -> None:
        """Gives the slot back. Best effort: Ray may kill the process first, so the driver tells the broker too."""
        if self._run is not None:
            self._run.release()


def in_order(train: Callable[[], dict[str, Any]], end: Callable[[TrialState, str], dict[str, Any]]) -> dict[str, Any]:
    """What `train` says. What it raises ends the trial and is never raised into Tune, which would start it again."""
    try:
        return train()
    except StorageError as error:
        # Not the trial's fault: the sweep ends in order, and the trial goes on with it.
        ends = "budget" if isinstance(error, BudgetUsedUp) else "failed"
        return end(TrialState.PAUSED, legible(str(error))) | {"ends_sweep": ends}
    except NodeLeaves:
        raise  # Tune is to start the trial again.
    except Exception as error:
        return end(TrialState.FAILED, last_words(error))


def final(state: TrialState, reason: str, step: int = 0, history: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a trial says at its end."""
    return {"step": step, "state": state.value, "reason": reason, "history": list(history), "done": True}


def last_words(error: Exception) -> str:
    """The exception's kind and the last line of its text, if it has any."""
    lines = str(error).strip().splitlines()
    return legible(f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__)


class TrialRun:
    """One trial in its process, from where the sweep's folder has it."""

    def __init__(self, assignment: Assignment, files: FolderFiles | KeptFiles, ask: Ask, calls: Calls = RAY) -> None:
        """Takes the trial up."""
        saved = files.saved()
        self._assignment, self._files, self._ask, self._calls = assignment, files, ask, calls
        self._key = assignment.trial_key
        self._progress = Progress.of(assignment, saved)
        self._is_open = False
        """The trial has held a slot, and the driver was told."""
        self._grant: Grant | None = None
        self._trainable_params = 0
        self._unwritten: bytes | None = None
        """The latest snapshot, when budget.disk had no room for it."""
        self._pending: dict[str, Any] | None = None
        """A report that was made before and may not have arrived."""
        if saved.report is not None and saved.report.step > self._progress.reported:
            # The driver died between this trial's snapshot and its report.
            self._pending = self._tell(saved.report, saved.adapter)

    def step(self) -> dict[str, Any]:
        """Trains to the next report point and says what came of it.

        Raises:
            StorageError: the sweep's folder takes no more.
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
        """Gives the slot back; what the trial says at its end."""
        self.release()
        history = tuple(step.model_dump_json() for step in self._progress.history)
        return final(state, reason, self._progress.step, history)

    def release(self) -> None:
        """Gives the slot back."""
        if self._grant is not None:
            lease, self._grant = self._grant.lease, None
            # By its id: the trial may be parked, resumed in another process and hold another lease by now.
            self._ask("release", self._key, lease)

    def _open(self) -> dict[str, Any]:
        """Takes a slot and says so: only then the trial has begun."""
        opened = self._slot()
        if opened is None:
            return self._stopped()
        if isinstance(opened, Failure):
            return self.end(TrialState.after(opened), opened.message)
        self._is_open = True
        # Without the metric: no scheduler judges it (ray async_hyperband.py, on_trial_result, 2.60).
        return {"step": self._progress.step, "state": TrialState.RUNNING.value, "opened": True, "done": False}

    def _tell(self, report: Report, adapter: str | None) -> dict[str, Any]:
        done, self._progress = self._progress.is_last(report.step), self._progress.told(report)
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
        """Writes rows, adapter and snapshot, in this order: a snapshot knows of nothing that is not there.

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
        """Writes the snapshot of an outcome, if the trial has more steps to do and budget.disk has room."""
        self._progress, self._unwritten = self._progress.at(outcome.step), None
        if outcome.snapshot is None or self._progress.is_last(outcome.step):
            return
        if not self._files.keep_snapshot(self._progress.saved(report, adapter), outcome.snapshot, self._progress.best):
            self._unwritten = outcome.snapshot

    def _latest(self) -> bytes | None:
        """What the trial goes on from. Read anew: in memory, it would weigh as much as the trial's optimizer."""
        return self._unwritten if self._unwritten is not None else self._files.snapshot()

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
            self._progress = self._progress.with_steps(outcome.history)
            if outcome.failure is not None:
                return outcome
            self._ask("reached", self._key)
            if outcome.evaluation is not None:
                return outcome
            self._save(outcome)
            if outcome.moves:
                self.release()
        return self._leave()

    def _leave(self) -> Outcome | None:
        """Saves the trial where it stands, so that it loses no step to a stop; answers a report point reached there."""
        if self._grant is None:
            return None
        try:
            saving = self._grant.host.save.remote(self._grant.lease, self._progress.known)
            outcome: Outcome = self._calls.answer(saving)
        except RayError:
            return None  # It goes on from the snapshot before.
        self._progress = self._progress.with_steps(outcome.history)
        if outcome.evaluation is not None or outcome.failure is not None:
            return outcome
        if outcome.snapshot is not None and outcome.step > self._progress.step:
            self._save(outcome)
        return None

    def _advance(self, target: int) -> Outcome | None:
        """One call to the host, with a lease taken first if there is none; None while there is nothing to tell."""
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
        """Waits a moment for a slot and puts the trial into it; None when there was none."""
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
            if opened.step > self._progress.step:  # nobody would hear of the steps in between
                unread = f"the snapshot of {self._key} at step {opened.step} could not be read a moment ago"
                raise StorageError(f"{unread}: go on with qsweep resume")
        return opened

    def _put_into(self, granted: Grant) -> Opened | Failure | None:
        """Puts the trial into its slot; None when the trial is to end meanwhile, or the lease was over before."""
        opening = granted.host.open.remote(granted.lease, self._assignment.spec, self._latest())
        # Behind a long step it takes long; whoever waits does not lose the lease meanwhile.
        while not self._calls.is_answered(opening, timeouts.CALL_SECONDS):
            if not self._goes_on():
                return None
        try:
            opened: Opened | Failure = self._calls.answer(opening)
        except LeaseOver:
            self._calls.pause(timeouts.RETRY_SECONDS)  # before another is asked for
            return None
        return opened

    def _goes_on(self) -> bool:
        """Whether the trial should go on in this process; renews its lease."""
        return bool(self._ask("goes_on", self._key, self._files.node_id))

    def _stopped(self) -> dict[str, Any]:
        """What a trial says that is to end, in this process or in all."""
        self.release()
        away = self._files.node_id
        if away and self._ask("goes_on", self._key):
            raise NodeLeaves(f"the node {away} leaves the cluster")
        return self.end(TrialState.PAUSED, "the sweep is stopping")

    def _host_lost(self, error: Exception) -> None:
        """Tells the broker of the host that a call could not reach; the lease stays where the host may be there."""
        if self._grant is None:
            return
        granted, self._grant = self._grant, None
        is_away = bool(self._files.node_id)
        # Ray does not know that the process is gone (ray/exceptions.py, 2.60): perhaps the network fails for a moment.
        is_unavailable = isinstance(error, ActorUnavailableError)
        if not (is_away or is_unavailable):
            self._ask("lost", granted.host_id)
            return
        # Only the way from this node to the host may be cut: other trials train there.
        self._ask("not_reached", granted.host_id)
        self._calls.pause(timeouts.RETRY_SECONDS)
        self._grant = granted if is_unavailable and not is_away else None
