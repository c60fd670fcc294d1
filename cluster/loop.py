"""The training loop of a host: one thread, slots that join and leave between steps. No Ray.

Callers name a target step and wait; asking twice for the same target trains once and answers twice, so a call whose
answer was lost can be repeated. A slot whose owner has not asked for more waits without holding up the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cluster.errors import LeaseOver
from trainables.contract import Evaluation, Failure, Opened, Pack, StepRecord
from trainables.isolation import failure_of, is_sticky
from trainables.specs import Spec, TrialSpec, seconds

Result = TypeVar("Result")


class Outcome(Spec):
    """A slot at its target step, or saved on its way there, or why it won't get there. Bytes and plain values only."""

    step: int
    history: tuple[StepRecord, ...] = ()
    """The steps since the previous outcome that the caller has."""
    evaluation: Evaluation | None = None
    """None on the way: then there is a snapshot and nothing else."""
    failure: Failure | None = None
    snapshot: bytes | None = None
    adapter: dict[str, bytes] | None = None
    """The adapter's files, when this evaluation is better than the best that the caller named."""
    peak_memory_bytes: int = 0


@dataclass
class _Training:
    """An open lease: its slot, its target and what its owner has not yet been given."""

    slot: int
    spec: TrialSpec
    opened: Opened
    step: int
    target: int = 0
    best: float = float("inf")
    history: list[StepRecord] = field(default_factory=list)
    """The steps that the owner has not said to have."""
    latest: StepRecord | None = None
    """The last step that was taken here."""
    outcome: Outcome | None = None
    saved: Outcome | None = None
    """The latest snapshot on the way to the target."""
    saved_time: float = 0.0

    def is_save_due(self, now: float) -> bool:
        """Whether the spec's snapshot_every is over since the slot was opened, saved or at a report point."""
        every = self.spec.training.snapshot_every
        since = max(self.opened.step, *(kept.step for kept in (self.outcome, self.saved) if kept is not None), 0)
        if isinstance(every, int):
            return self.step - since >= every
        return self.step > since and now - self.saved_time >= seconds(every)

    @property
    def waits(self) -> bool:
        return (self.outcome is not None and self.outcome.failure is not None) or self.target <= self.step

    @property
    def is_due(self) -> bool:
        """At its target, and not evaluated there yet."""
        return self.target == self.step and self.target > 0 and (self.outcome is None or self.outcome.step < self.step)


@dataclass(frozen=True)
class _Command(Generic[Result]):
    """Something to do between two steps, and the future that its caller holds."""

    action: Callable[[], Result]
    future: Future[Result]

    def run(self) -> None:
        # A caller that went away has cancelled its future: nothing is done for it then.
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.action())
        except Exception as error:
            self.future.set_exception(error)

    def refuse(self, error: Exception) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class PackLoop:
    """Trains the leases of one pack in a thread of its own until `stop`."""

    def __init__(self, pack: Pack, slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._pack = pack
        self._clock = clock
        self._free = list(range(slots))
        self._leases: dict[str, _Training] = {}
        self._commands: list[_Command[Any]] = []
        self._changed = threading.Condition()
        self._stopped = False
        self.fatal: BaseException | None = None
        """What ended the loop, if anything did: the pack itself is broken then, not one slot."""
        self._thread = threading.Thread(target=self._run, name="pack-loop", daemon=True)
        self._thread.start()

    # Called by others

    def open(self, lease: str, spec: TrialSpec, snapshot: bytes | None) -> Future[Opened | Failure]:
        """Puts a trial into a slot before the next step. An open lease goes on, and gives the same answer again."""
        return self._soon(lambda: self._open(lease, spec, snapshot))

    def advance(self, lease: str, target: int, best: float, known: int, wait_seconds: float) -> Outcome | None:
        """Trains the lease to step `target` and evaluates it there; None while there is nothing to tell.

        Args:
            lease: an open lease.
            target: the step to train to.
            best: the lowest eval_loss so far; a better one is handed out with its adapter.
            known: the last step that the caller has the history of: an answer that was lost is given again.
            wait_seconds: how long to wait for an answer.

        Raises:
            LeaseOver: the lease is not open here.
            RuntimeError: no step will come any more, as for every other call.
        """
        with self._changed:
            self._check()
            kept = self._held(lease)
            kept.target, kept.best = max(kept.target, target), best
            kept.history = [step for step in kept.history if step.step > known]
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._over() or self._answer(kept, target, known) is not None, wait_seconds)
            self._check()
            answer = self._answer(kept, target, known)
            if answer is None:
                return None
            fresh = tuple(step for step in answer.history if step.step > known)
            return answer.model_copy(update={"history": fresh})

    def save(self, lease: str, known: int) -> Future[Outcome]:
        """The lease as it stands before the next step: the history after step `known`, and a snapshot or a failure.

        An evaluation that was going on is waited for, and comes with the answer.
        """
        return self._soon(lambda: self._save_now(lease, known))

    def evaluate_base(self) -> Future[Evaluation | Failure]:
        """The base without an adapter on the evaluation rows, before the next step."""
        return self._soon(self._evaluate_base)

    def latest(self) -> dict[str, StepRecord]:
        """The last step of each lease that has taken one here."""
        with self._changed:
            return {name: lease.latest for name, lease in self._leases.items() if lease.latest is not None}

    def close(self, lease: str) -> Future[None]:
        """Frees the lease's slot before the next step. Closing an unknown lease does nothing."""
        return self._soon(lambda: self._close(lease))

    def stop(self) -> None:
        """Ends the thread after the step that is running."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _held(self, lease: str) -> _Training:
        found = self._leases.get(lease)
        if found is None:
            raise LeaseOver(f"the lease {lease} is over")
        return found

    @staticmethod
    def _answer(kept: _Training, target: int, known: int) -> Outcome | None:
        outcome = kept.outcome
        if outcome is not None and (outcome.failure is not None or outcome.step >= target):
            return outcome
        return kept.saved if kept.saved is not None and kept.saved.step > known else None

    def _soon(self, action: Callable[[], Result]) -> Future[Result]:
        command = _Command(action, Future())
        with self._changed:
            self._check()
            self._commands.append(command)
            self._changed.notify_all()
        return command.future

    def _over(self) -> bool:
        return self._stopped or self.fatal is not None

    def _check(self) -> None:
        if self.fatal is not None:
            raise RuntimeError(f"the host's training loop broke: {self.fatal!r}") from self.fatal
        if self._stopped:
            raise RuntimeError("the host's training loop was stopped")

    # In the loop's thread

    def _run(self) -> None:
        try:
            while self._next():
                pass
        except BaseException as error:
            with self._changed:
                self.fatal = error
                self._changed.notify_all()
        try:
            self._check()
        except RuntimeError as error:
            # Nothing is added any more: whoever waits for a command learns that it will not be run.
            for command in self._commands:
                command.refuse(error)

    def _next(self) -> bool:
        """Commands, then one step for all that have one to do, then evaluations. False when stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._commands or self._busy())
            if self._stopped:
                return False
            commands, self._commands = self._commands, []
        for command in commands:
            command.run()
        self._step()
        self._evaluate()
        return True

    def _busy(self) -> bool:
        return any(not lease.waits or lease.is_due for lease in self._leases.values())

    def _step(self) -> None:
        moving = {lease.slot: lease for lease in list(self._leases.values()) if not lease.waits}
        if not moving:
            return
        for slot, result in _blamed(self._pack.step, sorted(moving)).items():
            lease = moving[slot]
            if isinstance(result, Failure):
                self._settle(lease, Outcome(step=lease.step, history=tuple(lease.history), failure=result))
            else:
                with self._changed:
                    lease.step = result.step
                    lease.history.append(result)
                    lease.latest = result
                if lease.step < lease.target and lease.is_save_due(self._clock()):
                    self._save(lease)

    def _save(self, lease: _Training) -> None:
        try:
            snapshot = self._pack.snapshot(lease.slot)
        except Exception as error:
            self._settle(lease, Outcome(step=lease.step, history=tuple(lease.history), failure=failure_of(error)))
            return
        with self._changed:
            lease.saved = Outcome(step=lease.step, history=tuple(lease.history), snapshot=snapshot)
            lease.saved_time = self._clock()
            self._changed.notify_all()

    def _save_now(self, lease: str, known: int) -> Outcome:
        kept = self._held(lease)
        history = tuple(step for step in kept.history if step.step > known)
        over = kept.outcome
        if over is not None and (over.failure is not None or over.step > known):
            # Its owner has not heard of it, and would go on past its report point without it.
            return over.model_copy(update={"history": history})
        try:
            return Outcome(step=kept.step, history=history, snapshot=self._pack.snapshot(kept.slot))
        except Exception as error:
            return Outcome(step=kept.step, history=history, failure=failure_of(error))

    def _evaluate_base(self) -> Evaluation | Failure:
        try:
            return self._pack.evaluate_base()
        except Exception as error:
            return failure_of(error)

    def _evaluate(self) -> None:
        due = {lease.slot: lease for lease in list(self._leases.values()) if lease.is_due}
        if not due:
            return
        for slot, result in _blamed(self._pack.evaluate, sorted(due)).items():
            lease = due[slot]
            if isinstance(result, Failure):
                outcome = Outcome(step=lease.step, history=tuple(lease.history), failure=result)
            else:
                outcome = self._report(lease, result)
            self._settle(lease, outcome)

    def _report(self, lease: _Training, evaluation: Evaluation) -> Outcome:
        try:
            better = evaluation.eval_loss < lease.best
            return Outcome(
                step=lease.step,
                history=tuple(lease.history),
                evaluation=evaluation,
                snapshot=self._pack.snapshot(lease.slot),
                adapter=dict(self._pack.adapter(lease.slot)) if better else None,
                peak_memory_bytes=self._pack.peak_memory_bytes(),
            )
        except Exception as error:
            return Outcome(step=lease.step, history=tuple(lease.history), failure=failure_of(error))

    def _settle(self, lease: _Training, outcome: Outcome) -> None:
        with self._changed:
            lease.outcome, lease.saved = outcome, None
            lease.saved_time = self._clock()
            self._changed.notify_all()

    def _open(self, lease: str, spec: TrialSpec, snapshot: bytes | None) -> Opened | Failure:
        if lease in self._leases:
            return self._leases[lease].opened
        if not self._free:
            raise RuntimeError("no slot is free on this host")
        slot = self._free.pop(0)
        try:
            opened = self._pack.open(slot, spec, snapshot)
        except Exception as error:
            # Half open, for all that is known here.
            self._pack.close(slot)
            if is_sticky(error):
                self._free.append(slot)
                raise
            opened = failure_of(error)
        if isinstance(opened, Failure):
            self._free.append(slot)
            return opened
        with self._changed:
            self._leases[lease] = _Training(slot, spec, opened, opened.step, saved_time=self._clock())
        return opened

    def _close(self, lease: str) -> None:
        with self._changed:
            kept = self._leases.pop(lease, None)
        if kept is not None:
            self._pack.close(kept.slot)
            self._free.append(kept.slot)


def _blamed(
    operation: Callable[[Sequence[int]], Mapping[int, Result | Failure]], slots: Sequence[int]
) -> Mapping[int, Result | Failure]:
    """What `operation` says of the slots. One that raises on a slot alone has said why that one can't go on.

    On several slots it raises: which of them is to blame cannot be told, and the pack counts as broken. The trials of
    a host that dies twice then train alone.
    """
    try:
        return operation(slots)
    except Exception as error:
        if len(slots) > 1 or is_sticky(error):
            raise
        return {slots[0]: failure_of(error)}
