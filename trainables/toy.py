"""Closed-form learning curves instead of training: for demonstrations, tests and a new cluster's smoke run. No torch.

The curve of a trial is floor + (start - floor) / sqrt(1 + step). Its floor depends on the hyperparameters: best near a
learning rate of 3e-4, better with a higher rank and more target modules. Curves of different trials do not cross, so
the best trial is known in advance. A learning rate above 0.01 diverges; a rank above 256 is infeasible.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.contract import (
    Device,
    Evaluation,
    Failure,
    Need,
    Opened,
    Prepared,
    StepRecord,
    Summary,
    Target,
    TargetModules,
)
from trainables.objective import EVAL_LOSS, Direction
from trainables.specs import TrialSpec, learning_rate

REQUIRES: frozenset[str] = frozenset()
METRICS: Mapping[str, Direction] = {EVAL_LOSS: "min", "eval_accuracy": "max"}

START_LOSS = 2.5
LARGEST_RANK = 256
DIVERGES_ABOVE = 0.01
DIVERGES_AT_STEP = 5
_BREADTH = {"attention-qv": 1, "attention": 2, "mlp": 3, "all-linear": 7}


def check(base: TrialSpec) -> list[str]:
    """Refuses graders: the toy has no answers, and no files to check."""
    return ["evaluation.metrics: the toy answers nothing that could be scored"] if base.evaluation.metrics else []


def fingerprint(base: TrialSpec) -> Mapping[str, str]:
    """Returns the version of the toy's curves, since another curve is another trial."""
    return {"toy": "1"}


def resolve_targets(base: TrialSpec, values: Sequence[TargetModules], cache: Path) -> list[Target]:
    """Returns each preset, and each sorted set of names, as its own target, since there is no model."""
    return [
        Target(value=value, modules=(value,) if isinstance(value, str) else tuple(sorted(value))) for value in values
    ]


def prepare(base: TrialSpec, cache: Path) -> Prepared:
    """Prepares nothing, since there is no data."""
    return Prepared(summary=Summary(fingerprint="0" * 16, train_rows=0, eval_rows=1), payload=b"")


def open_pack(base: TrialSpec, data: bytes, cache: Path) -> ToyPack:
    """Opens a pack of curves."""
    return ToyPack()


def need(base: TrialSpec, largest: Sequence[TrialSpec], device: Device) -> Need | None:
    """Returns the need of a Python process; a curve takes hardly any memory."""
    return Need(base_bytes=150_000_000, slot_bytes=1_000, step_bytes=0, saturating_slots=4)


def floor(spec: TrialSpec) -> float:
    """Returns the loss that the trial's curve falls towards."""
    decades = math.log10(spec.training.learning_rate / 3e-4)
    modules = spec.adapter.target_modules
    breadth = _BREADTH.get(modules, 1) if isinstance(modules, str) else len(modules)
    return 0.5 + 0.3 * decades**2 + 0.4 / math.sqrt(spec.adapter.r) + 0.1 / breadth


def loss_at(spec: TrialSpec, step: int) -> float:
    """Returns the trial's loss after `step` steps; NaN once the trial has diverged."""
    if spec.training.learning_rate > DIVERGES_ABOVE and step >= DIVERGES_AT_STEP:
        return math.nan
    return floor(spec) + (START_LOSS - floor(spec)) / math.sqrt(1 + step)


def _evaluation(loss: float) -> Evaluation:
    """Returns an evaluation whose accuracy is the probability of a token with this loss: it rises as the loss falls."""
    metrics = {EVAL_LOSS: loss, "eval_accuracy": math.exp(-loss)}
    return Evaluation(metrics=metrics, row_losses=(loss,), row_tokens=(1,))


@dataclass
class _Slot:
    spec: TrialSpec
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class ToyPack:
    """A `Pack` without a model. See `trainables.contract.Pack`."""

    def __init__(self) -> None:
        self._slots: dict[int, _Slot] = {}

    def open(self, slot: int, spec: TrialSpec, snapshot: bytes | None = None) -> Opened | Failure:
        """See `Pack.open`."""
        if slot in self._slots:
            raise ValueError(f"slot {slot} is taken")
        if spec.adapter.r > LARGEST_RANK:
            return Failure(kind="infeasible", message=f"adapter.r: {spec.adapter.r} exceeds {LARGEST_RANK}")
        self._slots[slot] = _Slot(spec, **(json.loads(snapshot) if snapshot is not None else {}))
        return Opened(step=self._slots[slot].step, trainable_params=1000 * spec.adapter.r)

    def step(self, slots: Sequence[int]) -> Mapping[int, StepRecord | Failure]:
        """See `Pack.step`."""
        pause = max((self._slots[slot].spec.training.step_seconds for slot in slots), default=0.0)
        if pause:
            threading.Event().wait(pause)
        return {slot: self._step(self._slots[slot], pause) for slot in slots}

    def _step(self, slot: _Slot, seconds: float) -> StepRecord | Failure:
        loss = loss_at(slot.spec, slot.step + 1)
        if math.isnan(loss):
            return Failure(kind="diverged", message=f"step {slot.step + 1}: train_loss nan")
        training = slot.spec.training
        slot.step += 1
        slot.tokens += 100 * training.batch_size * training.gradient_accumulation_steps
        slot.seconds += seconds
        return StepRecord(
            step=slot.step,
            train_loss=loss,
            learning_rate=learning_rate(training, slot.step, slot.spec.steps),
            grad_norm=1.0 / math.sqrt(slot.step),
            tokens=slot.tokens,
            seconds=slot.seconds,
            time=time.time(),
        )

    def evaluate(self, slots: Sequence[int], scored: Collection[int] = ()) -> Mapping[int, Evaluation | Failure]:
        """See `Pack.evaluate`."""
        pause = max((self._slots[slot].spec.training.eval_seconds for slot in slots), default=0.0)
        if pause:
            threading.Event().wait(pause)
        return {slot: self._evaluate(self._slots[slot]) for slot in slots}

    def _evaluate(self, slot: _Slot) -> Evaluation | Failure:
        loss = loss_at(slot.spec, slot.step)
        if math.isnan(loss):
            return Failure(kind="diverged", message=f"{EVAL_LOSS} nan at step {slot.step}")
        return _evaluation(loss)

    def evaluate_base(self) -> Evaluation | Failure:
        """See `Pack.evaluate_base`: where every curve starts."""
        return _evaluation(START_LOSS)

    def snapshot(self, slot: int) -> bytes:
        """See `Pack.snapshot`."""
        kept = self._slots[slot]
        return json.dumps({"step": kept.step, "tokens": kept.tokens, "seconds": kept.seconds}).encode()

    def adapter(self, slot: int) -> Mapping[str, bytes]:
        """See `Pack.adapter`: the curve's floor, as JSON."""
        kept = self._slots[slot]
        return {"toy_adapter.json": json.dumps({"floor": floor(kept.spec), "step": kept.step}).encode()}

    def restored(self, adapter: Mapping[str, bytes]) -> bytes:
        """See `Pack`."""
        return json.dumps({"step": json.loads(adapter["toy_adapter.json"])["step"]}).encode()

    def close(self, slot: int) -> None:
        """See `Pack.close`."""
        self._slots.pop(slot, None)

    def peak_memory_bytes(self) -> int:
        """See `Pack.peak_memory_bytes`."""
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
