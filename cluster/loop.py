"""Trains all slots of a host in one thread; trials join and leave between two steps. No Ray.

A caller names a target step and waits for it. A caller that lost an answer asks again: the loop trains once and answers
twice. A lease at its target waits for its owner while the others train on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from cluster.errors import LeaseOver
from cluster.pace import Doing, Pace, WorkKind
from trainables.contract import ALL_ROWS, Evaluation, Failure, Opened, Pack, RowsDue, StepRecord
from trainables.objective import LOWEST_LOSS, Objective, SortKey
from trainables.slot_failures import failure_of, is_sticky
from trainables.specs import Spec, TrialSpec, seconds

Result = TypeVar("Result")


class Outcome(Spec):
    """What became of a lease: it reached its target, was saved, or failed. Holds bytes and plain values only."""

    step: int
    history: tuple[StepRecord, ...] = ()
    """The steps that the caller does not know yet."""
    evaluation: Evaluation | None = None
    """None if the lease has failed, or was saved without a new evaluation."""
    failure: Failure | None = None
    snapshot: bytes | None = None
    must_move: bool = False
    """Whether the host ends: the trial must release its lease, and goes on from this snapshot on another host."""
    adapter: dict[str, bytes] | None = None
    """File -> content; None unless this evaluation is better than the best one that the caller named."""
    peak_memory_bytes: int = 0
    has_snapshot: bool = False
    has_adapter: bool = False

    def split(self) -> tuple[Outcome, Large]:
        """Returns the outcome without its bytes, and the bytes, which travel apart to whoever writes them."""
        small = {
            "snapshot": None, "adapter": None,
            "has_snapshot": self.snapshot is not None, "has_adapter": self.adapter is not None,
        }  # fmt: skip
        return self.model_copy(update=small), Large(self.snapshot, self.adapter)


class Judged(NamedTuple):
    """Says how the next evaluation of a lease is judged."""

    objective: Objective = LOWEST_LOSS
    rows: RowsDue = ALL_ROWS
    """The rows to evaluate on and to compare with."""


BY_LOSS = Judged()


class Large(NamedTuple):
    """The bytes of an outcome."""

    snapshot: bytes | None = None
    adapter: dict[str, bytes] | None = None


class Finalist(Spec):
    """A trial whose best adapter is to be evaluated on all rows."""

    spec: TrialSpec
    adapter: dict[str, bytes]
    """File -> content."""
    is_scored: bool = True
    """Whether its answers are scored too."""


@dataclass
class OpenLease:
    """An open lease: its slot, its target, and the results that its owner does not have yet."""

    slot: int
    spec: TrialSpec
    opened: Opened
    step: int
    target: int = 0
    best: SortKey = field(default_factory=SortKey)
    judged: Judged = BY_LOSS
    history: list[StepRecord] = field(default_factory=list)
    """Steps that the owner has not confirmed."""
    latest: StepRecord | None = None
    """The last step that the trial took on this host."""
    outcome: Outcome | None = None
    saved: Outcome | None = None
    """The latest snapshot on the way to the target."""
    saved_time: float = 0.0
    is_leaving: bool = False
    """Whether the owner saves the lease to leave: the lease takes no step until the next `advance`."""

    def is_save_due(self, now: float) -> bool:
        """Tells whether snapshot_every has passed since the lease was opened, saved or evaluated."""
        every = self.spec.training.snapshot_every
        since = max(
            self.opened.step, *(outcome.step for outcome in (self.outcome, self.saved) if outcome is not None), 0
        )
        if isinstance(every, int):
            return self.step - since >= every
        return self.step > since and now - self.saved_time >= seconds(every)

    @property
    def examples(self) -> int:
        """Returns the number of rows in one step."""
        return self.spec.training.batch_size * self.spec.training.gradient_accumulation_steps

    @property
    def is_scored(self) -> bool:
        """Tells whether the trial's answers are scored at its present step."""
        return self.spec.is_scored_at(self.step)

    @property
    def is_waiting(self) -> bool:
        """Tells whether the lease takes no step now: it has failed, is at its target, must move, or is leaving."""
        has_failed = self.outcome is not None and self.outcome.failure is not None
        return (
            has_failed
            or self.is_leaving
            or self.target <= self.step
            or (self.saved is not None and self.saved.must_move)
        )

    @property
    def is_due(self) -> bool:
        """Tells whether the lease is at its target and was not evaluated there yet."""
        return self.target == self.step and self.target > 0 and (self.outcome is None or self.outcome.step < self.step)


@dataclass(frozen=True)
class Command(Generic[Result]):
    """An action to run between two steps, and the future on which its caller waits."""

    action: Callable[[], Result]
    future: Future[Result]
    what: WorkKind = "change of trials"

    def begin(self) -> bool:
        """Marks the command as begun; False if its caller went away, and cancelled the future."""
        return self.future.set_running_or_notify_cancel()

    def run(self) -> None:
        """Runs the action, after `begin`. Raises only an error that spoils the whole process: see `is_sticky`."""
        try:
            result = self.action()
        except Exception as error:
            if is_sticky(error):
                raise  # `PackLoop._run` gives it to this caller too, once the loop is known to be broken.
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def refuse(self, error: Exception) -> None:
        """Gives the caller an error in place of a result."""
        if self.future.running() or self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class PackLoop:
    """Trains the leases of one pack in its own thread until `stop`."""

    def __init__(self, pack: Pack, slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._pack = pack
        self._clock = clock
        self._pace = Pace(clock)
        self._free = list(range(slots))
        self._leases: dict[str, OpenLease] = {}
        self._closed: set[str] = set()
        """Leases that are over for good, also those that were never opened: an `open` may wait for its snapshot, and
        arrive after the `close` of the same lease."""
        self._commands: list[Command[Any]] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._ends = False
        """Whether the host ends soon: each lease on its way is saved at its next step, and takes no further step."""
        self.fatal: BaseException | None = None
        """The error that ended the loop. It breaks the whole pack, not one slot."""
        self._thread = threading.Thread(target=self._run, name="pack-loop", daemon=True)
        self._thread.start()

    # Called by others

    def open(self, lease: str, spec: TrialSpec, snapshot: bytes | None) -> Future[Opened | Failure]:
        """Puts a trial into a slot before the next step. An open lease stays open, and the answer is the same.

        The future raises LeaseOver if the lease was closed before.
        """
        return self._between_steps(lambda: self._open(lease, spec, snapshot))

    def advance(
        self,
        lease: str,
        target: int,
        best: SortKey,
        known: int,
        wait_seconds: float,
        judged: Judged = BY_LOSS,
    ) -> Outcome | None:
        """Trains the lease to step `target` and evaluates it there; None if there is no outcome in time.

        Args:
            best: sort key of the trial's best evaluation so far; a better evaluation comes with its adapter.
            known: the last step whose record the caller has; the outcome's history begins after this step.
            judged: of the evaluation at `target`.

        Raises:
            LeaseOver: the lease is not open here.
            RuntimeError: the loop broke or was stopped. Each method that returns a future raises it too.
        """
        with self._changed:
            self._check()
            held = self._lease(lease)
            held.target, held.is_leaving = max(held.target, target), False
            held.best, held.judged = best, judged
            held.history = [step for step in held.history if step.step > known]
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._over() or self._answer(held, target, known) is not None, wait_seconds)
            self._check()
            answer = self._answer(held, target, known)
            if answer is None:
                return None
            fresh = tuple(step for step in answer.history if step.step > known)
            return answer.model_copy(update={"history": fresh})

    def save(self, lease: str, known: int) -> Future[Outcome]:
        """Saves the lease before the next step. The outcome has the history after `known`, and a snapshot or a failure.

        Waits for a running evaluation, which the outcome has too if the caller does not know it. The lease takes no
        step until the next `advance`.
        """
        return self._between_steps(lambda: self._save_now(lease, known))

    def evaluate_base(self) -> Future[Evaluation | Failure]:
        """Evaluates the base without an adapter before the next step."""
        return self._between_steps(self._evaluate_base, "evaluation of the base")

    def evaluate_finalists(self, finalists: Sequence[Finalist]) -> Future[list[Evaluation | Failure]]:
        """Evaluates adapters on all rows, one adapter per slot at a time. Closes all leases first: training is over."""
        return self._between_steps(lambda: self._evaluate_finalists(finalists), "evaluation of answers")

    def latest(self) -> dict[str, StepRecord]:
        """Returns lease -> last step on this host, for the leases that took a step."""
        with self._changed:
            return {name: lease.latest for name, lease in self._leases.items() if lease.latest is not None}

    def doing(self) -> Doing | None:
        """Returns the loop's present work and how long it has lasted; None while the loop waits."""
        return self._pace.doing()

    def close(self, lease: str) -> Future[None]:
        """Frees the lease's slot before the next step. A lease that is not open yet can never be opened afterwards."""
        return self._between_steps(lambda: self._close(lease))

    def move_out(self) -> None:
        """Saves every lease on its way at its next step, so that its owner can move the trial."""
        with self._changed:
            self._ends = True

    def stop(self) -> None:
        """Ends the thread after the running step."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _lease(self, lease: str) -> OpenLease:
        held = self._leases.get(lease)
        if held is None:
            raise LeaseOver(f"the lease {lease} is over")
        return held

    @staticmethod
    def _answer(held: OpenLease, target: int, known: int) -> Outcome | None:
        outcome = held.outcome
        if outcome is not None and (outcome.failure is not None or outcome.step >= target):
            return outcome
        saved = held.saved
        # A move must reach also a trial that knows later steps, from a host that it lost.
        return saved if saved is not None and (saved.must_move or saved.step > known) else None

    def _between_steps(self, action: Callable[[], Result], what: WorkKind = "change of trials") -> Future[Result]:
        command = Command(action, Future(), what)
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
            # No command is added any more. Those that wait are refused.
            for command in self._commands:
                command.refuse(error)

    def _next(self) -> bool:
        """Runs the commands, one step of all leases on their way, and the due evaluations. False once stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._commands or self._busy())
            if self._stopped:
                return False
            commands, self._commands = self._commands, []
        for number, command in enumerate(commands):
            try:
                if command.begin():
                    with self._pace.does(command.what):
                        command.run()
            except Exception:
                with self._changed:
                    self._commands[:0] = commands[number:]
                raise
        self._step()
        self._evaluate()
        return True

    def _busy(self) -> bool:
        return any(not lease.is_waiting or lease.is_due for lease in self._leases.values())

    def _step(self) -> None:
        moving = {lease.slot: lease for lease in list(self._leases.values()) if not lease.is_waiting}
        if not moving:
            return
        with self._pace.does("step", sum(lease.examples for lease in moving.values())):
            for slot, result in _blamed(self._pack.step, sorted(moving)).items():
                lease = moving[slot]
                if isinstance(result, Failure):
                    self._settle(lease, Outcome(step=lease.step, history=tuple(lease.history), failure=result))
                else:
                    with self._changed:
                        lease.step = result.step
                        lease.history.append(result)
                        lease.latest = result
                    if lease.step < lease.target and (self._ends or lease.is_save_due(self._clock())):
                        self._save(lease)

    def _save(self, lease: OpenLease) -> None:
        try:
            snapshot = self._pack.snapshot(lease.slot)
        except Exception as error:
            self._settle(lease, Outcome(step=lease.step, history=tuple(lease.history), failure=_failure(error)))
            return
        with self._changed:
            lease.saved = Outcome(
                step=lease.step, history=tuple(lease.history), snapshot=snapshot, must_move=self._ends
            )
            lease.saved_time = self._clock()
            self._changed.notify_all()

    def _save_now(self, lease: str, known: int) -> Outcome:
        held = self._lease(lease)
        held.is_leaving, over = True, held.outcome
        history = tuple(step for step in held.history if step.step > known)
        if over is not None and (over.failure is not None or over.step > known):
            # The owner does not know this outcome yet, and without it would miss a report point.
            return over.model_copy(update={"history": history})
        try:
            return Outcome(step=held.step, history=history, snapshot=self._pack.snapshot(held.slot))
        except Exception as error:
            return Outcome(step=held.step, history=history, failure=_failure(error))

    def _evaluate_base(self) -> Evaluation | Failure:
        try:
            return self._pack.evaluate_base()
        except Exception as error:
            return _failure(error)

    def _evaluate_finalists(self, finalists: Sequence[Finalist]) -> list[Evaluation | Failure]:
        for lease in list(self._leases):
            self._close(lease)
        together = len(self._free)
        return [
            found
            for start in range(0, len(finalists), together)
            for found in self._scored_together(finalists[start : start + together])
        ]

    def _scored_together(self, finalists: Sequence[Finalist]) -> list[Evaluation | Failure]:
        slots = self._free[: len(finalists)]
        try:
            opened = {slot: self._restored(slot, each) for slot, each in zip(slots, finalists, strict=True)}
            found: dict[int, Evaluation | Failure] = {
                slot: each for slot, each in opened.items() if isinstance(each, Failure)
            }
            due = [slot for slot in slots if slot not in found]
            scored = {slot for slot, each in zip(slots, finalists, strict=True) if each.is_scored}
            found |= _blamed(lambda own: self._pack.evaluate(own, scored.intersection(own)), due) if due else {}
        finally:
            for slot in slots:
                self._pack.close(slot)
        return [found[slot] for slot in slots]

    def _restored(self, slot: int, finalist: Finalist) -> Opened | Failure:
        try:
            # `restored` is no part of the protocol: a host of a pack without it has not started.
            snapshot = self._pack.restored(finalist.adapter)  # type: ignore[attr-defined]
            return self._pack.open(slot, finalist.spec, snapshot)
        except Exception as error:
            return _failure(error)

    def _evaluate(self) -> None:
        due = {lease.slot: lease for lease in list(self._leases.values()) if lease.is_due}
        if not due:
            return
        what: WorkKind = "evaluation of answers" if any(lease.is_scored for lease in due.values()) else "evaluation"
        with self._pace.does(what, len(due)):
            for slot, result in _blamed(self._evaluated, sorted(due)).items():
                lease = due[slot]
                if isinstance(result, Failure):
                    outcome = Outcome(step=lease.step, history=tuple(lease.history), failure=result)
                else:
                    outcome = self._report(lease, result)
                self._settle(lease, outcome)

    def _evaluated(self, slots: Sequence[int]) -> Mapping[int, Evaluation | Failure]:
        own = [lease for lease in self._leases.values() if lease.slot in slots]
        scored = {lease.slot for lease in own if lease.is_scored}
        rows = {lease.slot: lease.judged.rows for lease in own if lease.judged.rows != ALL_ROWS}
        if rows:
            # `evaluate_parts` is no part of the protocol: a trainable without it always takes all rows.
            evaluate: Callable[..., Mapping[int, Evaluation | Failure]] = getattr(self._pack, "evaluate_parts")  # noqa: B009
            return evaluate(slots, scored, rows)
        # A pack that scores no answers need not take the argument.
        return self._pack.evaluate(slots, scored) if scored else self._pack.evaluate(slots)

    def _report(self, lease: OpenLease, evaluation: Evaluation) -> Outcome:
        try:
            if (lease.is_scored and not evaluation.unscored) or not lease.spec.evaluation.metrics:
                lease.judged.objective.of(evaluation.metrics)
            better = lease.judged.objective.sort_key(evaluation.beside(lease.judged.rows.of_best)) < lease.best
            return Outcome(
                step=lease.step,
                history=tuple(lease.history),
                evaluation=evaluation,
                # A complete trial goes on from nothing.
                snapshot=None if lease.step == lease.spec.steps else self._pack.snapshot(lease.slot),
                adapter=dict(self._pack.adapter(lease.slot)) if better else None,
                peak_memory_bytes=self._pack.peak_memory_bytes(),
            )
        except Exception as error:
            return Outcome(step=lease.step, history=tuple(lease.history), failure=_failure(error))

    def _settle(self, lease: OpenLease, outcome: Outcome) -> None:
        with self._changed:
            lease.outcome, lease.saved = outcome, None
            lease.saved_time = self._clock()
            self._changed.notify_all()

    def _open(self, lease: str, spec: TrialSpec, snapshot: bytes | None) -> Opened | Failure:
        if lease in self._leases:
            return self._leases[lease].opened
        if lease in self._closed:
            raise LeaseOver(f"the lease {lease} was over before it was opened")
        if not self._free:
            raise RuntimeError("no slot is free on this host")
        slot = self._free.pop(0)
        try:
            opened = self._pack.open(slot, spec, snapshot)
        except Exception as error:
            opened = _failure(error)
            # The pack may have opened it in part.
            self._pack.close(slot)
        if isinstance(opened, Failure):
            self._free.append(slot)
            return opened
        with self._changed:
            self._leases[lease] = OpenLease(slot, spec, opened, opened.step, saved_time=self._clock())
        return opened

    def _close(self, lease: str) -> None:
        self._closed.add(lease)
        with self._changed:
            held = self._leases.pop(lease, None)
        if held is not None:
            self._pack.close(held.slot)
            self._free.append(held.slot)


def _failure(error: Exception) -> Failure:
    """Returns an exception as its trial's failure. Raises it again if it spoils the process: no trial is to blame."""
    if is_sticky(error):
        raise error
    return failure_of(error)


def _blamed(
    operation: Callable[[Sequence[int]], Mapping[int, Result | Failure]], slots: Sequence[int]
) -> Mapping[int, Result | Failure]:
    """Runs an operation on slots. An error on a single slot is returned as that slot's failure.

    An error on several slots is raised: nobody can tell which slot is to blame, so the pack counts as broken. Later the
    broker lets each trial train alone whose hosts died twice.
    """
    try:
        return operation(slots)
    except Exception as error:
        if len(slots) > 1:
            raise
        return {slots[0]: _failure(error)}
