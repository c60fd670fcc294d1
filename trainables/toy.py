"""Closed-form learning curves instead of training: for demonstrations, tests and a new cluster's smoke run. No torch.

The curve of a trial is floor + (start - floor) / sqrt(1 + step). Its floor depends on the hyperparameters: best near a
learning rate of 3e-4, better with a higher rank and more target modules. Curves of different trials do not cross, so
the best trial is known in advance. A learning rate above 0.01 diverges; a rank above 256 is infeasible.

Where `evaluation.metrics` names a score of `SCORES`, there are ten rows, and a trial answers so many of them right as
`right_answers` says: most at a learning rate near 1e-3, so that the lowest loss is not the highest score.
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
    AnsweredRow,
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
SCORES = ("exact_match", "choice")
"""The graders that it knows, without options."""

START_LOSS = 2.5
LARGEST_RANK = 256
DIVERGES_ABOVE = 0.01
DIVERGES_AT_STEP = 5
_BREADTH = {"attention-qv": 1, "attention": 2, "mlp": 3, "all-linear": 7}


def check(base: TrialSpec) -> list[str]:
    """There are no files, and no answers but those of `SCORES`."""
    known = " and ".join(SCORES)
    return [
        f"evaluation.metrics.{place}: {entry}: the toy scores by {known} only"
        for place, entry in enumerate(base.evaluation.metrics)
        if entry not in SCORES
    ]


def metrics(base: TrialSpec) -> Mapping[str, Direction]:
    """METRICS, and those of `SCORES` that the specification names."""
    return {**METRICS, **{name: "max" for name in SCORES if name in base.evaluation.metrics}}


def fingerprint(base: TrialSpec) -> Mapping[str, str]:
    """The toy's own version: another curve is another trial."""
    return {"toy": "1"}


def resolve_targets(base: TrialSpec, values: Sequence[TargetModules], cache: Path) -> list[Target]:
    """There is no model: each preset and each set of names is itself."""
    return [
        Target(value=value, modules=(value,) if isinstance(value, str) else tuple(sorted(value))) for value in values
    ]


def prepare(base: TrialSpec, cache: Path) -> Prepared:
    """There is no data."""
    return Prepared(summary=Summary(fingerprint="0" * 16, train_rows=0, eval_rows=_rows(base)), payload=b"")


def open_pack(base: TrialSpec, data: bytes, cache: Path) -> ToyPack:
    """A pack of curves."""
    return ToyPack(base)


def need(base: TrialSpec, largest: Sequence[TrialSpec], device: Device) -> Need | None:
    """A Python process; a curve weighs nothing."""
    return Need(base_bytes=150_000_000, slot_bytes=1_000, step_bytes=0, saturating_slots=4)


def floor(spec: TrialSpec) -> float:
    """The loss that the trial's curve falls towards."""
    decades = math.log10(spec.training.learning_rate / 3e-4)
    modules = spec.adapter.target_modules
    breadth = _BREADTH.get(modules, 1) if isinstance(modules, str) else len(modules)
    return 0.5 + 0.3 * decades**2 + 0.4 / math.sqrt(spec.adapter.r) + 0.1 / breadth


def loss_at(spec: TrialSpec, step: int) -> float:
    """The trial's loss after `step` steps; NaN once it has diverged."""
    if spec.training.learning_rate > DIVERGES_ABOVE and step >= DIVERGES_AT_STEP:
        return math.nan
    return floor(spec) + (START_LOSS - floor(spec)) / math.sqrt(1 + step)


def right_answers(spec: TrialSpec, step: int) -> int:
    """How many of the rows the trial answers right after `step` steps: 1 at first, as the base does."""
    decades = math.log10(spec.training.learning_rate / 1e-3)
    return 1 + round(8 * max(0.0, 1 - decades**2) * step / spec.steps)


def _rows(base: TrialSpec) -> int:
    """Rows to evaluate on."""
    return 10 if base.evaluation.metrics else 1


def _evaluation(spec: TrialSpec, loss: float, right: int | None) -> Evaluation:
    """Its accuracy is the probability of a token with that loss: the lower the one, the higher the other.

    Args:
        right: how many of the rows are answered right, the first ones; None where answers are not scored.
    """
    rows, names = _rows(spec), [name for name in SCORES if name in spec.evaluation.metrics]
    places = range(min(rows, spec.evaluation.examples or rows) if names and right is not None else 0)
    values = tuple(float(row < (right or 0)) for row in places)
    scores = dict.fromkeys(names, sum(values) / len(values)) if values else {}
    return Evaluation(
        metrics={EVAL_LOSS: loss, "eval_accuracy": math.exp(-loss), **scores},
        row_losses=tuple(loss * (1 + (row - (rows - 1) / 2) / rows) for row in range(rows)),
        row_tokens=(1,) * rows,
        row_values=dict.fromkeys(scores, values),
        row_places=tuple(places) if 0 < len(places) < rows else (),
        answers=tuple(_answered(row, value, names) for row, value in zip(places, values, strict=True)),
    )


def _answered(row: int, value: float, names: Sequence[str]) -> AnsweredRow:
    answer = str(2 * row)
    return AnsweredRow(
        row=row,
        prompt=f"{row} + {row} =",
        expected=answer,
        answer=answer if value else "?",
        is_ended=True,
        scores=dict.fromkeys(names, value),
    )


@dataclass
class _Slot:
    spec: TrialSpec
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class ToyPack:
    """A `Pack` without a model. See `trainables.contract.Pack`."""

    def __init__(self, base: TrialSpec | None = None) -> None:
        self._base = base or TrialSpec(trainable="toy")
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
        return {slot: self._evaluate(self._slots[slot], slot in scored) for slot in slots}

    def _evaluate(self, slot: _Slot, is_scored: bool = False) -> Evaluation | Failure:
        loss = loss_at(slot.spec, slot.step)
        if math.isnan(loss):
            return Failure(kind="diverged", message=f"{EVAL_LOSS} nan at step {slot.step}")
        return _evaluation(slot.spec, loss, right_answers(slot.spec, slot.step) if is_scored else None)

    def evaluate_base(self) -> Evaluation | Failure:
        """See `Pack.evaluate_base`: where every curve starts."""
        return _evaluation(self._base, START_LOSS, 1)

    def snapshot(self, slot: int) -> bytes:
        """See `Pack.snapshot`."""
        kept = self._slots[slot]
        return json.dumps({"step": kept.step, "tokens": kept.tokens, "seconds": kept.seconds}).encode()

    def adapter(self, slot: int) -> Mapping[str, bytes]:
        """See `Pack.adapter`: the curve's floor, as JSON."""
        kept = self._slots[slot]
        return {"toy_adapter.json": json.dumps({"floor": floor(kept.spec), "step": kept.step}).encode()}

    def close(self, slot: int) -> None:
        """See `Pack.close`."""
        self._slots.pop(slot, None)

    def peak_memory_bytes(self) -> int:
        """See `Pack.peak_memory_bytes`."""
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
