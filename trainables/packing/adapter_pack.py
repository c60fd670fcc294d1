"""Trains K adapters side by side: slots, optimizers, learning rates, clipping, and the records of their steps.

The engine computes the log-probabilities of all adapters in one shared pass (`trainables.packing.engine`), and the
trainable's loss turns them into gradients (`trainables.packing.training_loss`). A slot has rows, optimizer, schedule,
clipping and seeds of its own, so neighbours change its numbers by rounding alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.utils import clip_grad_norm_, get_total_norm

from trainables.base import base_model
from trainables.base.base_model import Base
from trainables.contract import ALL_ROWS, Evaluation, Failure, Opened, RowsDue, StepRecord
from trainables.data import dataset
from trainables.packing import evaluation, grouped_product, peft_adapters
from trainables.packing.answers import Grading
from trainables.packing.engine import DropoutKey, Engine, Segment
from trainables.packing.flat_engine import FlatEngine, uncovered
from trainables.packing.pass_limits import FLAT, GROUPED, PEFT, TRAINED_TOKENS
from trainables.packing.passes import PassThreads, PlacedRows, evaluation_passes, share_passes, training_passes
from trainables.packing.peft_engine import PeftEngine
from trainables.packing.training_loss import Loss
from trainables.slot_failures import SlotOrBase, failure_of, is_sticky, isolated, lacks_memory
from trainables.specs import TrainingSpec, TrialSpec, learning_rate


class _Part(NamedTuple):
    """The rows of an evaluation."""

    places: tuple[int, ...]
    """Places among the evaluation rows, rising."""
    split: dataset.Split
    passes: list[PlacedRows]


@dataclass
class _Slot:
    spec: TrialSpec
    parameters: Mapping[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def choose_engine(base: Base, wanted: str = "auto") -> tuple[Engine, str]:
    """Returns the engine for a base without adapters, and its name; the name tells why the engine is not as wanted.

    Args:
        wanted: see `TrainingSpec.engine`; auto is flat if the flat engine covers the base.
    """
    problem = uncovered(base)
    if wanted == PEFT or problem is not None:
        return PeftEngine(base), PEFT if wanted == PEFT else f"{PEFT}, since {problem}"
    if wanted != GROUPED:
        return FlatEngine(base), FLAT
    problem = grouped_product.missing()
    if problem is not None:
        return FlatEngine(base), f"{FLAT}, since {problem}"
    return FlatEngine(base, grouped=True), f"{FLAT}, {GROUPED}"


def _groups(parameters: Mapping[str, torch.nn.Parameter], ratio: float | None) -> list[dict[str, Any]]:
    """Returns AdamW's groups of parameters, with the learning rate of each over that of A."""
    if ratio is None:
        return [{"params": list(parameters.values()), "over_a": 1.0}]
    # With B, as in PEFT: DoRA's lengths.
    of_b = {name for name, parameter in parameters.items() if ".lora_B." in name or parameter.ndim == 1}
    a, b = ([p for name, p in parameters.items() if (name in of_b) is is_b] for is_b in (False, True))
    return [{"params": a, "over_a": 1.0}, {"params": b, "over_a": ratio}]


def _optimizer(
    training: TrainingSpec, parameters: Mapping[str, torch.nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    groups, betas = _groups(parameters, training.lora_plus_ratio), (training.adam_beta1, training.adam_beta2)
    if training.optimizer == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        of_bytes: torch.optim.Optimizer = AdamW8bit(
            groups, lr=training.learning_rate, betas=betas, weight_decay=training.weight_decay
        )
        return of_bytes
    return torch.optim.AdamW(
        groups,
        lr=training.learning_rate,
        betas=betas,
        weight_decay=training.weight_decay,
        # On a GPU a fused optimizer keeps its step counter there; restored states have it on the CPU. With None
        # torch itself chooses on a GPU: its operators on lists of tensors, one list for each GPU.
        fused=True if device.type == "cpu" else None,
    )


class AdapterPack:
    """A `Pack` of LoRA adapters on one frozen base model. See `trainables.contract.Pack`."""

    def __init__(
        self,
        engine: Engine,
        data: dataset.Splits,
        loss: Loss | None = None,
        known_base: Path | None = None,
        engine_name: str = "",
        pass_tokens: int = TRAINED_TOKENS,
    ) -> None:
        """Starts without a slot.

        Args:
            data: the rows to train and to evaluate on.
            loss: the training objective of the adapters; None for `Loss` itself.
            known_base: the file that keeps the evaluation of the base without an adapter from sweep to sweep.
            engine_name: the engine's name for people.
            pass_tokens: see `pass_limits.trained_tokens`. The pack lowers this number when a pass lacks memory.
        """
        self.engine_name = engine_name
        self._known_base = known_base
        self._engine = engine
        self._data = data
        self._loss = Loss() if loss is None else loss
        self.pass_tokens = pass_tokens
        self._threads = PassThreads(engine.parallel_passes)
        self._slots: dict[int, _Slot] = {}
        self._parts: dict[int, _Part] = {}
        """Number of rows -> the part of the evaluation rows with so many rows."""
        self._base: Evaluation | Failure | None = None
        """The evaluation of the base by its losses; None before the first one."""
        self._grading: Grading | None = None
        self._label_passes: list[PlacedRows] = []

    @property
    def hardware(self) -> str:
        """See `Base.hardware`."""
        return self._engine.base.hardware

    def recompute(self) -> None:
        """Computes activations again in the backward pass from now on. Call it before the first trial."""
        base_model.checkpoint_gradients(self._engine.base.model)

    def score_answers(self, grading: Grading) -> None:
        """Lets evaluations score answers from now on."""
        self._grading, self._label_passes = grading, grading.label_passes()

    # Joining and leaving

    def open(self, slot: int, spec: TrialSpec, snapshot: bytes | None = None) -> Opened | Failure:
        """Puts a trial into a free slot; see `Pack.open`."""
        if slot in self._slots:
            raise ValueError(f"slot {slot} is taken")
        outcome = isolated([slot], lambda _: {slot: self._open(slot, spec, snapshot)}, self._clear)[slot]
        if isinstance(outcome, Failure):
            self.close(slot)
        return outcome

    def _open(self, slot: int, spec: TrialSpec, snapshot: bytes | None) -> Opened:
        parameters = self._engine.add(slot, spec)
        optimizer = _optimizer(spec.training, parameters, self._engine.base.device)
        opened = _Slot(spec, parameters, optimizer)
        if snapshot is not None:
            progress = peft_adapters.restore(snapshot, parameters, optimizer)
            opened.step, opened.tokens, opened.seconds = progress.step, progress.tokens, progress.seconds
        self._slots[slot] = opened
        return Opened(step=opened.step, trainable_params=sum(p.numel() for p in parameters.values()))

    def close(self, slot: int) -> None:
        """Frees the slot; see `Pack.close`."""
        self._slots.pop(slot, None)
        self._engine.remove(slot)

    # Training

    def step(self, slots: Sequence[int]) -> Mapping[int, StepRecord | Failure]:
        """Does one optimizer step for each slot; see `Pack.step`."""
        return isolated(list(slots), self._step, self._clear)

    def _step(self, slots: Sequence[int]) -> dict[int, StepRecord | Failure]:
        started = time.perf_counter()
        batches = {slot: self._batch(slot) for slot in slots}
        losses = dict.fromkeys(slots, 0.0)
        weights = {slot: sum(self._loss.weight(segment.rows) for segment in batches[slot]) for slot in slots}
        for slot in slots:
            self._slots[slot].optimizer.zero_grad(set_to_none=True)
        for micro in range(max(len(segments) for segments in batches.values())):
            due = [batches[slot][micro] for slot in slots if micro < len(batches[slot])]
            together = training_passes(self._engine, due, self.pass_tokens)
            for means in self._threads.run(partial(self._train, weights), together):
                for slot, mean in means.items():
                    losses[slot] += mean
        elapsed = time.perf_counter() - started
        return {slot: self._try_update(self._slots[slot], batches[slot], losses[slot], elapsed) for slot in slots}

    def _train(self, weights: Mapping[int, float], together: Sequence[Segment]) -> dict[int, float]:
        """Adds the gradients of one pass. Returns slot -> part of its loss: the segment's total / the slot's weight.

        If a pass of several slots lacks memory, later passes have at most half as many tokens.
        """
        slots = [segment.slot for segment in together if segment.slot is not None]
        try:
            token_losses = self._engine.token_losses(together)
            totals = [self._loss.total(own.rows, of) for own, of in zip(together, token_losses, strict=True)]
            means = torch.stack([total / weights[slot] for slot, total in zip(slots, totals, strict=True)])
            means.sum().backward()
        except Exception as error:
            if len(together) > 1 and lacks_memory(error):
                # Else each later step would fail here again, and be repeated.
                fewer = self._engine.parallel_passes * (self._engine.pass_tokens(together) // 2)
                self.pass_tokens = min(self.pass_tokens, fewer)
            raise
        return dict(zip(slots, means.tolist(), strict=True))

    def _try_update(
        self, slot: _Slot, segments: Sequence[Segment], loss: float, elapsed: float
    ) -> StepRecord | Failure:
        # Raises only errors that break the process, and returns the others as failures. `isolated` repeats an operation
        # that raises, and would train slots that are updated already a second time on the same rows.
        try:
            return self._update(slot, segments, loss, elapsed)
        except Exception as error:
            if is_sticky(error):
                raise
            return failure_of(error)

    def _update(self, slot: _Slot, segments: Sequence[Segment], loss: float, elapsed: float) -> StepRecord | Failure:
        training = slot.spec.training
        step = slot.step + 1
        rate = learning_rate(training, step, slot.spec.steps)
        gradients = [p.grad for p in slot.parameters.values() if p.grad is not None]
        norm = float(get_total_norm(gradients))
        if not math.isfinite(loss) or not math.isfinite(norm):
            slot.optimizer.zero_grad(set_to_none=True)
            return Failure(kind="diverged", message=f"step {step}: train_loss {loss}, gradient norm {norm}")
        if training.max_grad_norm is not None:
            clip_grad_norm_(slot.parameters.values(), training.max_grad_norm)
        for group in slot.optimizer.param_groups:
            group["lr"] = rate * group["over_a"]
        slot.optimizer.step()
        slot.optimizer.zero_grad(set_to_none=True)
        slot.step = step
        slot.tokens += sum(segment.tokens for segment in segments)
        slot.seconds += elapsed
        return StepRecord(
            step=step,
            train_loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens=slot.tokens,
            seconds=slot.seconds,
            time=time.time(),
        )

    def _batch(self, slot: int) -> list[Segment]:
        """Returns the micro-batches of the slot's next step. The slot's seed and step alone decide them."""
        spec, step = self._slots[slot].spec, self._slots[slot].step
        rows, of_example = self._data.train, self._loss.rows_per_example
        count = spec.training.batch_size * spec.training.gradient_accumulation_steps
        examples = dataset.batch_rows(spec.seed, len(rows) // of_example, step * count, count)
        batch = [rows.row(of_example * place + own) for place in examples for own in range(of_example)]
        size = of_example * spec.training.batch_size
        return [
            Segment(slot, batch[micro * size : (micro + 1) * size], DropoutKey(spec.seed, step + 1, micro))
            for micro in range(spec.training.gradient_accumulation_steps)
        ]

    # Evaluation

    def evaluate(self, slots: Sequence[int], scored: Collection[int] = ()) -> Mapping[int, Evaluation | Failure]:
        """Evaluates each slot on all evaluation rows; see `Pack.evaluate`."""
        found = isolated(list(slots), partial(self._on_part, self._part(None)), self._clear)
        return found | self._scored({slot: found[slot] for slot in slots if slot in scored})

    def evaluate_parts(
        self, slots: Sequence[int], scored: Collection[int], rows: Mapping[int, RowsDue]
    ) -> Mapping[int, Evaluation | Failure]:
        """Evaluates each slot on its part of the evaluation rows; see `Pack`. Slots of one part share passes."""
        found: dict[int, Evaluation | Failure] = {}
        for due in dict.fromkeys(rows.get(slot, ALL_ROWS).evaluated for slot in slots):
            own, part = [slot for slot in slots if rows.get(slot, ALL_ROWS).evaluated == due], self._part(due)
            if len(part.places) == len(self._data.eval):
                found |= self.evaluate(own, scored)
            else:
                found |= isolated(own, partial(self._on_part, part), self._clear)
        return {slot: self._compared(found[slot], rows.get(slot, ALL_ROWS)) for slot in slots}

    def evaluate_base(self) -> Evaluation | Failure:
        """Evaluates the base without an adapter, in the same passes as adapters; see `Pack.evaluate_base`."""
        return self._scored({None: self._by_losses()})[None]

    def _by_losses(self) -> Evaluation | Failure:
        """Returns the evaluation of the base by its losses, and computes it once."""

        def made() -> Evaluation | Failure:
            return isolated([None], partial(self._on_part, self._part(None)), self._clear)[None]

        if not isinstance(self._base, Evaluation):
            self._base = evaluation.read_or_make(self._known_base, made, self._data.eval, self._loss.metrics)
        return self._base

    def _compared(self, found: Evaluation | Failure, due: RowsDue) -> Evaluation | Failure:
        """Brings the metrics of a part to all rows, and adds the metrics on the numbers of rows to compare on."""
        whole = len(self._data.eval)
        sizes = {size for size in due if size is not None and len(self._part(size).places) < whole}
        if not sizes or isinstance(found, Failure):
            return found
        base = self._by_losses()
        if isinstance(base, Failure):
            return base
        by_rows = {
            size: {**found.metrics, **evaluation.brought(found, base, self._part(size).places, self._loss.metrics)}
            for size in sizes
        }
        if due.evaluated not in sizes:
            return found.model_copy(update={"by_rows": by_rows})
        told = {"metrics": by_rows.pop(due.evaluated), "raw": found.metrics, "by_rows": by_rows}
        return found.model_copy(update=told)

    def _part(self, rows: int | None) -> _Part:
        """Returns so many first rows of the nested order, or all: also where an example of the loss has several."""
        split, size = self._data.eval, len(self._data.eval)
        if rows is not None and rows < size and self._loss.rows_per_example == 1:
            size = rows
        if size not in self._parts:
            places = tuple(range(size)) if size == len(split) else tuple(sorted(dataset.nested_order(split)[:size]))
            own = split if size == len(split) else dataset.part(split, places)
            passes = evaluation_passes([own.row(i) for i in range(size)], self._engine.parallel_passes)
            self._parts[size] = _Part(places, own, passes)
        return self._parts[size]

    def _on_part(self, part: _Part, slots: Sequence[SlotOrBase]) -> dict[SlotOrBase, Evaluation | Failure]:
        losses = self._losses(slots, part.passes)
        found = {slot: evaluation.judge(losses[slot], part.split, self._loss.metrics, self.hardware) for slot in slots}
        if part.split is self._data.eval:
            return found
        return {
            slot: each.model_copy(update={"places": part.places}) if isinstance(each, Evaluation) else each
            for slot, each in found.items()
        }

    def _scored(self, evaluated: Mapping[SlotOrBase, Evaluation | Failure]) -> dict[SlotOrBase, Evaluation | Failure]:
        """Returns the evaluations with the scores of answers, or why there are none. All slots answer together."""
        grading = self._grading
        if grading is None:
            return dict(evaluated)
        due = {slot: each for slot, each in evaluated.items() if isinstance(each, Evaluation)}

        def score(slots: Sequence[SlotOrBase]) -> dict[SlotOrBase, Evaluation | Failure]:
            prompts = [prompt for slot in slots for prompt in grading.prompts(slot)]
            answers = self._engine.generate(prompts, grading.answering) if prompts else []
            losses = self._losses(slots, self._label_passes)
            each = len(prompts) // len(slots)
            return {
                slot: grading.grade(
                    due[slot],
                    answers[each * place : each * (place + 1)],
                    [float(of_label.sum()) for of_label in losses[slot]],
                )
                for place, slot in enumerate(slots)
            }

        scored = isolated(list(due), score, self._clear)
        for slot, found in scored.items():
            if isinstance(found, Failure):
                scored[slot] = due[slot].model_copy(update={"unscored": dict.fromkeys(grading.metrics, found.message)})
        return {**evaluated, **scored}

    def _losses(
        self, slots: Sequence[SlotOrBase], passes: Sequence[PlacedRows]
    ) -> dict[SlotOrBase, list[torch.Tensor]]:
        """Returns slot -> token losses of each row of the passes, in the order of the rows' places."""
        losses = {slot: [torch.empty(0)] * sum(len(places) for places, _ in passes) for slot in slots}
        shared = [
            (places, rows, together)
            for places, rows in passes
            for together in share_passes(slots, rows, self._engine.base.device)
        ]
        found = self._threads.run(self._row_losses, [[Segment(slot, rows) for slot in own] for _, rows, own in shared])
        for (places, _, together), of_slots in zip(shared, found, strict=True):
            for slot, of_rows in zip(together, of_slots, strict=True):
                for place, of_row in zip(places, of_rows, strict=True):
                    losses[slot][place] = of_row
        return losses

    @torch.no_grad()
    def _row_losses(self, together: Sequence[Segment]) -> list[Sequence[torch.Tensor]]:
        """Returns the token losses of each row on the CPU, for each segment of one pass."""
        token_losses = self._engine.token_losses(together)
        return [
            of.cpu().split([row.labels for row in segment.rows])
            for segment, of in zip(together, token_losses, strict=True)
        ]

    def _clear(self) -> None:
        """Drops the gradients and the cached memory that a broken pass left behind."""
        for slot in self._slots.values():
            slot.optimizer.zero_grad(set_to_none=True)
        if self._engine.base.device.type == "cuda":
            torch.cuda.empty_cache()

    # What leaves the process

    def snapshot(self, slot: int) -> bytes:
        """Returns adapter, optimizer and progress as one safetensors file; see `Pack.snapshot`."""
        kept = self._slots[slot]
        progress = peft_adapters.AdapterProgress(step=kept.step, tokens=kept.tokens, seconds=kept.seconds)
        return peft_adapters.snapshot(kept.parameters, kept.optimizer, progress)

    def adapter(self, slot: int) -> Mapping[str, bytes]:
        """Returns a standard PEFT folder; see `Pack.adapter`."""
        return self._engine.adapter(slot)

    def restored(self, adapter: Mapping[str, bytes]) -> bytes:
        """Returns a snapshot of the adapter alone; see `Pack`."""
        return peft_adapters.snapshot_of(adapter)

    def peak_memory_bytes(self) -> int:
        """Returns the most memory used so far; see `Pack.peak_memory_bytes`."""
        if self._engine.base.device.type == "cuda":
            return max(int(torch.cuda.max_memory_reserved(device)) for device in self._engine.base.devices)
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
