"""K adapters on one frozen base: the reference engine.

PEFT owns the adapters and its own layers compute them. PEFT refuses mixed-adapter batches in training in one check on
the model (tuners/lora/model.py, 0.21.2); its layers are differentiable, so permanent hooks hand `adapter_names` to each
layer directly. They stay on, so gradient checkpointing finds them when it runs a layer again.

Neighbour independence: each slot has contiguous rows in the batch, a loss over its own completion tokens, its own
optimizer, schedule, clip and seeds. The base is frozen and has no operation across rows, so one backward of the sum of
the losses gives each adapter exactly its own gradient.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_, get_total_norm

from trainables.base.base_model import Base
from trainables.contract import Evaluation, Failure, Opened, StepRecord
from trainables.data import dataset
from trainables.isolation import failure_of, is_sticky, isolated
from trainables.packing import adapter_files, kept_evaluation, lora_layers, targets
from trainables.packing.batches import chunks, stack
from trainables.packing.dropout import Draw
from trainables.schedule import learning_rate
from trainables.specs import TrialSpec


@dataclass
class _Slot:
    name: str
    spec: TrialSpec
    draw: Draw
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass
class _Part:
    """The rows of one slot in a packed pass; without a slot, rows that no adapter sees."""

    slot: _Slot | None
    rows: list[dataset.Row] = field(default_factory=list)

    @property
    def name(self) -> str:
        return lora_layers.NO_ADAPTER if self.slot is None else self.slot.name

    @property
    def labels(self) -> int:
        return sum(row.labels for row in self.rows)

    @property
    def longest(self) -> int:
        return max(len(row.ids) for row in self.rows)


class AdapterPack:
    """A `Pack` of LoRA adapters on one frozen base model. See `trainables.contract.Pack`."""

    def __init__(
        self, base: Base, data: dataset.Rows, clock: Callable[[], float] = time.time, known_base: Path | None = None
    ) -> None:
        """A pack without a slot; `known_base` is the file where the base's own evaluation is kept, or is to be."""
        self._known_base = known_base
        self._base = base
        self._data = data
        self._clock = clock
        self._slots: dict[int, _Slot] = {}
        self._peft: PeftModel | None = None
        self._routes = lora_layers.Routes()
        head = base.model.get_output_embeddings()
        self._keep: torch.Tensor | None = None
        head.register_forward_pre_hook(self._keep_labelled)
        self._eval_chunks = chunks([data.eval.row(i) for i in range(len(data.eval))])

    # Joining and leaving

    def open(self, slot: int, spec: TrialSpec, snapshot: bytes | None = None) -> Opened | Failure:
        """Puts a trial into a free slot; see `Pack.open`."""
        if slot in self._slots:
            raise ValueError(f"slot {slot} is taken")
        outcome = isolated([slot], lambda _: {slot: self._open(slot, spec, snapshot)}, self._clear)[slot]
        if isinstance(outcome, Failure):
            self._remove(f"slot{slot}")
        return outcome

    def _open(self, slot: int, spec: TrialSpec, snapshot: bytes | None) -> Opened:
        name = f"slot{slot}"
        modules = targets.resolve(self._base.model, spec.adapter.target_modules)
        config = adapter_files.lora_config(spec, modules)
        # PEFT initialises from the global generator: fork it, so that the trial's seed alone decides.
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            if self._peft is None:
                self._peft = get_peft_model(self._base.model, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
        draw = Draw(spec.seed)
        lora_layers.attach(self._peft, self._routes, name, spec.adapter.lora_dropout, draw)
        parameters = lora_layers.parameters(self._peft, name)
        optimizer = torch.optim.AdamW(
            parameters.values(), lr=spec.training.learning_rate, weight_decay=spec.training.weight_decay
        )
        opened = _Slot(name, spec, draw, parameters, optimizer)
        self._slots[slot] = opened
        self._set_trainable()
        if snapshot is not None:
            progress = adapter_files.restore(snapshot, parameters, optimizer)
            opened.step, opened.tokens, opened.seconds = progress.step, progress.tokens, progress.seconds
        return Opened(step=opened.step, trainable_params=sum(p.numel() for p in parameters.values()))

    def close(self, slot: int) -> None:
        """Frees the slot; see `Pack.close`."""
        gone = self._slots.pop(slot, None)
        if gone is not None:
            self._remove(gone.name)

    def _remove(self, name: str) -> None:
        self._slots = {slot: kept for slot, kept in self._slots.items() if kept.name != name}
        if self._peft is not None and name in self._peft.peft_config:
            lora_layers.detach(self._peft, name)
        self._set_trainable()

    def _set_trainable(self) -> None:
        """Repairs requires_grad: PEFT keeps one adapter trainable when adapters come and go (tuners_utils.py)."""
        for slot in self._slots.values():
            for parameter in slot.parameters.values():
                parameter.requires_grad_(True)

    # Training

    def step(self, slots: Sequence[int]) -> Mapping[int, StepRecord | Failure]:
        """Does one optimizer step for each slot; see `Pack.step`."""
        return isolated(list(slots), self._step, self._clear)

    def _step(self, slots: Sequence[int]) -> dict[int, StepRecord | Failure]:
        started = self._clock()
        batches = {slot: self._batch(self._slots[slot]) for slot in slots}
        losses = dict.fromkeys(slots, 0.0)
        labels = {slot: sum(part.labels for part in batches[slot]) for slot in slots}
        for slot in slots:
            self._slots[slot].optimizer.zero_grad(set_to_none=True)
        for micro in range(max(len(parts) for parts in batches.values())):
            due = [slot for slot in slots if micro < len(batches[slot])]
            for slot in due:
                draw = self._slots[slot].draw
                draw.step, draw.micro_batch, draw.training = self._slots[slot].step + 1, micro, True
            sums = self._token_losses([batches[slot][micro] for slot in due])
            means = [token_losses.sum() / labels[slot] for slot, token_losses in zip(due, sums, strict=True)]
            for slot, mean in zip(due, means, strict=True):
                losses[slot] += float(mean.detach())
            torch.stack(means).sum().backward()
        elapsed = self._clock() - started
        return {slot: self._try_update(self._slots[slot], batches[slot], losses[slot], elapsed) for slot in slots}

    def _try_update(self, slot: _Slot, parts: Sequence[_Part], loss: float, elapsed: float) -> StepRecord | Failure:
        # Never raises: slots updated before this one must not be trained again on the same rows.
        try:
            return self._update(slot, parts, loss, elapsed)
        except Exception as error:
            if is_sticky(error):
                raise
            return failure_of(error)

    def _update(self, slot: _Slot, parts: Sequence[_Part], loss: float, elapsed: float) -> StepRecord | Failure:
        training = slot.spec.training
        step = slot.step + 1
        rate = learning_rate(training, step, slot.spec.steps)
        gradients = [p.grad for p in slot.parameters.values() if p.grad is not None]
        norm = float(get_total_norm(gradients))
        if not _finite(loss) or not _finite(norm):
            slot.optimizer.zero_grad(set_to_none=True)
            return Failure(kind="diverged", message=f"step {step}: train_loss {loss}, gradient norm {norm}")
        if training.max_grad_norm is not None:
            clip_grad_norm_(slot.parameters.values(), training.max_grad_norm)
        for group in slot.optimizer.param_groups:
            group["lr"] = rate
        slot.optimizer.step()
        slot.optimizer.zero_grad(set_to_none=True)
        slot.step = step
        slot.tokens += sum(len(row.ids) for part in parts for row in part.rows)
        slot.seconds += elapsed
        return StepRecord(
            step=step,
            train_loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens=slot.tokens,
            seconds=slot.seconds,
            time=self._clock(),
        )

    def _batch(self, slot: _Slot) -> list[_Part]:
        """The micro-batches of the slot's next step: a function of its seed and step alone."""
        training = slot.spec.training
        count = training.batch_size * training.gradient_accumulation_steps
        rows = self._data.train
        chosen = dataset.batch_rows(slot.spec.seed, len(rows), slot.step * count, count)
        size = training.batch_size
        return [_Part(slot, [rows.row(i) for i in chosen[at : at + size]]) for at in range(0, count, size)]

    # Evaluation

    def evaluate(self, slots: Sequence[int]) -> Mapping[int, Evaluation | Failure]:
        """Evaluates each slot on all evaluation rows; see `Pack.evaluate`."""
        return isolated(list(slots), self._evaluate, self._clear)

    def _evaluate(self, slots: Sequence[int]) -> dict[int, Evaluation | Failure]:
        chosen = [self._slots[slot] for slot in slots]
        for slot in chosen:
            slot.draw.training = False
        return dict(zip(slots, self._on_eval_rows(chosen), strict=True))

    def evaluate_base(self) -> Evaluation | Failure:
        """The base without an adapter, in the passes that adapters are evaluated in; see `Pack.evaluate_base`."""
        return kept_evaluation.kept(self._known_base, self._evaluate_base)

    def _evaluate_base(self) -> Evaluation | Failure:
        return isolated([0], lambda _: {0: self._on_eval_rows([None])[0]}, self._clear)[0]

    @torch.no_grad()
    def _on_eval_rows(self, slots: Sequence[_Slot | None]) -> list[Evaluation | Failure]:
        totals = [[0.0] * len(self._data.eval) for _ in slots]
        for places, rows in self._eval_chunks:
            counts = [row.labels for row in rows]
            parts = [_Part(slot, rows) for slot in slots]
            for of_slot, token_losses in zip(totals, self._token_losses(parts), strict=True):
                for place, piece in zip(places, token_losses.double().split(counts), strict=True):
                    of_slot[place] = float(piece.sum())
        tokens = tuple(self._data.eval.row(i).labels for i in range(len(self._data.eval)))
        return [_evaluation(of_slot, tokens, self._base.hardware) for of_slot in totals]

    # The shared pass

    def _token_losses(self, parts: Sequence[_Part]) -> list[torch.Tensor]:
        """One forward pass over all parts: each part's negative log-likelihoods, (its labelled tokens,), float32."""
        batch = stack([row for part in parts for row in part.rows])
        for part in parts:
            if part.slot is not None:
                part.slot.draw.rows, part.slot.draw.length = len(part.rows), part.longest
        # They stay until the next pass: gradient checkpointing runs the layers again in the backward pass.
        self._routes.names = [part.name for part in parts for _ in part.rows]
        self._keep = batch.keep.to(self._base.device)
        try:
            logits_NV = self._base.model(input_ids=batch.ids.to(self._base.device), use_cache=False).logits
        finally:
            self._keep = None
        losses_N = functional.cross_entropy(logits_NV.float(), batch.answers.to(self._base.device), reduction="none")
        return list(losses_N.split([part.labels for part in parts]))

    def _keep_labelled(
        self, _head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...] | None:
        """Only positions that have a label go through the head: (rows, length, width) becomes (labels, width)."""
        return None if self._keep is None else (inputs[0][self._keep], *inputs[1:])

    def _clear(self) -> None:
        """Drops what a broken pass left behind."""
        for slot in self._slots.values():
            slot.optimizer.zero_grad(set_to_none=True)
        if self._base.device.type == "cuda":
            torch.cuda.empty_cache()

    # What leaves the process

    def snapshot(self, slot: int) -> bytes:
        """Adapter, optimizer and progress as one safetensors file; see `Pack.snapshot`."""
        kept = self._slots[slot]
        progress = adapter_files.Progress(step=kept.step, tokens=kept.tokens, seconds=kept.seconds)
        return adapter_files.snapshot(kept.parameters, kept.optimizer, progress)

    def adapter(self, slot: int) -> Mapping[str, bytes]:
        """A standard PEFT folder; see `Pack.adapter`."""
        assert self._peft is not None
        return adapter_files.peft_folder(self._peft, self._slots[slot].name)

    def peak_memory_bytes(self) -> int:
        """Most memory used so far; see `Pack.peak_memory_bytes`."""
        if self._base.device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(self._base.device))
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _evaluation(totals: Sequence[float], tokens: tuple[int, ...], hardware: str) -> Evaluation | Failure:
    loss = sum(totals) / sum(tokens)
    if not _finite(loss):
        return Failure(kind="diverged", message=f"eval_loss {loss}")
    return Evaluation(eval_loss=loss, row_losses=tuple(totals), row_tokens=tokens, hardware=hardware)


def _finite(value: float) -> bool:
    return value - value == 0.0
