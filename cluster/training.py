"""One lease in training: where it stands, and the outcome that its owner gets. No Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainables.contract import Evaluation, Failure, Opened, StepRecord
from trainables.objective import MIN_EVAL_LOSS, Objective
from trainables.specs import Spec, TrialSpec, seconds


class Outcome(Spec):
    """What became of a lease: it reached its target, was saved on the way, or failed. Bytes and plain values only."""

    step: int
    history: tuple[StepRecord, ...] = ()
    """The steps that the caller does not know yet."""
    evaluation: Evaluation | None = None
    """None on the way to the target: then there is only a snapshot."""
    failure: Failure | None = None
    snapshot: bytes | None = None
    moves: bool = False
    """The host ends: the trial must release its lease, and goes on from this snapshot on another host."""
    adapter: dict[str, bytes] | None = None
    """The adapter's files, only when this evaluation is better than the best one that the caller named."""
    peak_memory_bytes: int = 0


@dataclass
class Training:
    """An open lease: its slot, its target and what its owner has not yet been given."""

    slot: int
    spec: TrialSpec
    opened: Opened
    step: int
    target: int = 0
    best: float = float("inf")
    objective: Objective = MIN_EVAL_LOSS
    history: list[StepRecord] = field(default_factory=list)
    """The steps that the owner has not confirmed."""
    latest: StepRecord | None = None
    """The last step that it took on this host."""
    outcome: Outcome | None = None
    saved: Outcome | None = None
    """The latest snapshot on the way to the target."""
    saved_time: float = 0.0
    rests: bool = False
    """Its owner saves it to leave: it takes no step until it is asked to advance again."""

    def is_save_due(self, now: float) -> bool:
        """Whether snapshot_every has passed since the lease was opened, saved or evaluated."""
        every = self.spec.training.snapshot_every
        since = max(
            self.opened.step, *(outcome.step for outcome in (self.outcome, self.saved) if outcome is not None), 0
        )
        if isinstance(every, int):
            return self.step - since >= every
        return self.step > since and now - self.saved_time >= seconds(every)

    @property
    def examples(self) -> int:
        """How many rows one of its steps trains on."""
        return self.spec.training.batch_size * self.spec.training.gradient_accumulation_steps

    @property
    def is_waiting(self) -> bool:
        """Whether it has failed, is at its target, rests, or must move: it takes no step until its owner asks."""
        has_failed = self.outcome is not None and self.outcome.failure is not None
        return has_failed or self.rests or self.target <= self.step or (self.saved is not None and self.saved.moves)

    @property
    def is_due(self) -> bool:
        """Whether it is at its target and must be evaluated there."""
        return self.target == self.step and self.target > 0 and (self.outcome is None or self.outcome.step < self.step)
