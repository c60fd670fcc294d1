"""Trains K adapters side by side: slots, optimizers, learning rates, clipping, and the records of their steps.

How the adapters' losses are computed in one shared pass is the engine's part (`trainables.packing.engine`). A slot has
rows, optimizer, schedule, clipping and seeds of its own, so neighbours change its numbers by rounding alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_, get_total_norm

from trainables import qlora_metrics
from trainables.base import base_model
from trainables.contract import Evaluation, Failure, Opened, StepRecord
from trainables.data import dataset
from trainables.isolation import SlotOrBase, failure_of, is_sticky, isolated, lacks_memory
from trainables.learning_rates import learning_rate
from trainables.objective import EVAL_LOSS
from trainables.packing import adapter_files, kept_evaluation
from trainables.packing.at_once import AtOnce
from trainables.packing.batches import chunks, passes, sharing
from trainables.packing.dropout import DropoutKey
from trainables.packing.engine import Engine, Segment
from trainables.packing.pass_memory import TRAINED_TOKENS
from trainables.specs import TrialSpec

_SAME = 1e-5
"""Losses of one token that differ by less, relative to the largest loss, are equal: fp32 sums of logits differ by some
1e-6. A tiny random model, whose losses are all near that of a uniform distribution, differs by more than 1e-3."""
_LEAST_REPEATS = 3
"""So many equal losses are no chance."""


@dataclass
class _Slot:
    spec: TrialSpec
    parameters: Mapping[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class AdapterPack:
    """A `Pack` of LoRA adapters on one frozen base model. See `trainables.contract.Pack`."""

    def __init__(
        self,
        engine: Engine,
        data: dataset.Splits,
        known_base: Path | None = None,
        engine_name: str = "",
        pass_tokens: int = TRAINED_TOKENS,
    ) -> None:
        """Starts without a slot.

        Args:
            data: the rows to train and to evaluate on.
            known_base: the file that keeps the evaluation of the base alone between sweeps.
            engine_name: what the engine is called where people read it.
            pass_tokens: see `pass_memory.trained_tokens`.
        """
        self.engine_name = engine_name
        self._known_base = known_base
        self._engine = engine
        self._data = data
        self._pass_tokens = pass_tokens
        self._at_once = AtOnce(engine.at_once)
        self._slots: dict[int, _Slot] = {}
        self._eval_chunks = chunks([data.eval.row(i) for i in range(len(data.eval))], engine.at_once)

    @property
    def hardware(self) -> str:
        """See `Base.hardware`."""
        return self._engine.base.hardware

    def recompute(self) -> None:
        """Computes activations again in the backward pass from now on. Call it before the first trial."""
        base_model.checkpoint_gradients(self._engine.base.model)

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
        optimizer = torch.optim.AdamW(
            parameters.values(),
            lr=spec.training.learning_rate,
            weight_decay=spec.training.weight_decay,
            # On a GPU a fused optimizer keeps its step counter there; restored states have it on the CPU. What is left
            # open there is torch's own choice, its operators on lists of tensors, for each GPU its own.
            fused=True if self._engine.base.device.type == "cpu" else None,
        )
        opened = _Slot(spec, parameters, optimizer)
        if snapshot is not None:
            progress = adapter_files.restore(snapshot, parameters, optimizer)
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
        labels = {slot: sum(segment.labels for segment in batches[slot]) for slot in slots}
        for slot in slots:
            self._slots[slot].optimizer.zero_grad(set_to_none=True)
        for micro in range(max(len(segments) for segments in batches.values())):
            due = [batches[slot][micro] for slot in slots if micro < len(batches[slot])]
            for means in self._at_once.run(partial(self._train, labels), passes(self._engine, due, self._pass_tokens)):
                for slot, mean in means.items():
                    losses[slot] += mean
        elapsed = time.perf_counter() - started
        return {slot: self._try_update(self._slots[slot], batches[slot], losses[slot], elapsed) for slot in slots}

    def _train(self, labels: Mapping[int, int], together: Sequence[Segment]) -> dict[int, float]:
        """Adds the gradients of one pass. Returns each slot's part of its loss, of which `labels` is the divisor.

        Where a pass of several slots lacks memory, those of later steps have at most half as many tokens.
        """
        own = [segment.slot for segment in together if segment.slot is not None]
        try:
            token_losses = self._engine.token_losses(together)
            means = torch.stack([of.sum() / labels[slot] for slot, of in zip(own, token_losses, strict=True)])
            means.sum().backward()
        except Exception as error:
            if len(together) > 1 and lacks_memory(error):
                # Else each later step would fail here once more, and be done over.
                fewer = self._engine.at_once * (self._engine.pass_tokens(together) // 2)
                self._pass_tokens = min(self._pass_tokens, fewer)
            raise
        return dict(zip(own, means.tolist(), strict=True))

    def _try_update(
        self, slot: _Slot, segments: Sequence[Segment], loss: float, elapsed: float
    ) -> StepRecord | Failure:
        # Raises only errors that break the process: a retry would train earlier slots again on the same rows.
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
            group["lr"] = rate
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
        """Returns the micro-batches of the slot's next step. They follow from its seed and step alone."""
        spec, step = self._slots[slot].spec, self._slots[slot].step
        size = spec.training.batch_size
        count = size * spec.training.gradient_accumulation_steps
        rows = self._data.train
        batch = [rows.row(i) for i in dataset.batch_rows(spec.seed, len(rows), step * count, count)]
        return [
            Segment(slot, batch[micro * size : (micro + 1) * size], DropoutKey(spec.seed, step + 1, micro))
            for micro in range(spec.training.gradient_accumulation_steps)
        ]

    # Evaluation

    def evaluate(self, slots: Sequence[int]) -> Mapping[int, Evaluation | Failure]:
        """Evaluates each slot on all evaluation rows; see `Pack.evaluate`."""
        return isolated(list(slots), self._on_eval_rows, self._clear)

    def evaluate_base(self) -> Evaluation | Failure:
        """Evaluates the base without an adapter, in the same passes as adapters; see `Pack.evaluate_base`."""
        return kept_evaluation.kept(self._known_base, lambda: isolated([None], self._on_eval_rows, self._clear)[None])

    def _on_eval_rows(self, slots: Sequence[SlotOrBase]) -> dict[SlotOrBase, Evaluation | Failure]:
        eval_rows = [self._data.eval.row(i) for i in range(len(self._data.eval))]
        losses = {slot: [torch.empty(0)] * len(eval_rows) for slot in slots}
        shared = [
            (places, rows, together)
            for places, rows in self._eval_chunks
            for together in sharing(slots, rows, self._engine.base.device)
        ]
        found = self._at_once.run(self._row_losses, [[Segment(slot, rows) for slot in own] for _, rows, own in shared])
        for (places, _, together), of_slots in zip(shared, found, strict=True):
            for slot, of_rows in zip(together, of_slots, strict=True):
                for place, of_row in zip(places, of_rows, strict=True):
                    losses[slot][place] = of_row
        groups, hardware = self._data.eval.groups, self._engine.base.hardware
        return {slot: _evaluation(losses[slot], eval_rows, groups, hardware) for slot in slots}

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
        progress = adapter_files.Progress(step=kept.step, tokens=kept.tokens, seconds=kept.seconds)
        return adapter_files.snapshot(kept.parameters, kept.optimizer, progress)

    def adapter(self, slot: int) -> Mapping[str, bytes]:
        """Returns a standard PEFT folder; see `Pack.adapter`."""
        return self._engine.adapter(slot)

    def peak_memory_bytes(self) -> int:
        """Returns the most memory used so far; see `Pack.peak_memory_bytes`."""
        if self._engine.base.device.type == "cuda":
            return max(int(torch.cuda.max_memory_reserved(device)) for device in self._engine.base.devices)
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _evaluation(
    losses: Sequence[torch.Tensor], rows: Sequence[dataset.TokenRow], groups: tuple[int, ...], hardware: str
) -> Evaluation | Failure:
    totals, tokens = tuple(float(of_row.double().sum()) for of_row in losses), tuple(map(len, losses))
    metrics = qlora_metrics.evaluate(totals, tokens)
    wrong = [f"{name} {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if not wrong and _is_flat(losses, rows):
        wrong = [f"eval_loss {metrics[EVAL_LOSS]:.4f}: the output no longer depends on the input"]
    if wrong:
        return Failure(kind="diverged", message=", ".join(wrong))
    values = qlora_metrics.row_values(totals, tokens)
    return Evaluation(
        metrics=metrics,
        row_losses=totals,
        row_tokens=tokens,
        row_groups=groups,
        row_values=values,
        hardware=hardware,
    )


def _is_flat(losses: Sequence[torch.Tensor], rows: Sequence[dataset.TokenRow]) -> bool:
    """Tells whether the logits are the same at every position: then each token has one loss wherever it stands.

    Losses near 0 do not count, which a model that is sure has anywhere, nor do rows that are equal.
    """
    once = {row.ids.tobytes(): place for place, row in enumerate(rows)}.values()
    answers = np.concatenate([rows[place].ids[rows[place].labelled] for place in once])
    found = torch.cat([losses[place] for place in once]).numpy()
    same = _SAME * max(1.0, float(found.max()))
    if np.ptp(found) <= same:  # as of a uniform distribution, where all tokens are alike
        answers = np.zeros_like(answers)
    low, high, counts = np.full(answers.max() + 1, np.inf), np.full(answers.max() + 1, -np.inf), np.bincount(answers)
    np.minimum.at(low, answers, found)
    np.maximum.at(high, answers, found)
    sure = (counts > 0) & (low > 100 * same)
    repeats = int((counts[sure] - 1).sum())
    return repeats >= _LEAST_REPEATS and bool(np.all(high - low <= same, where=counts > 0))
