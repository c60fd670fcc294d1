"""Implements the reference engine: PEFT holds the adapters, and its own layers compute them.

PEFT refuses batches of several adapters in training, with one check on the model (tuners/lora/model.py, 0.21.2). Its
layers can train such batches, so hooks give `adapter_names` to each layer directly. The hooks are permanent, because
gradient checkpointing runs a layer again in the backward pass.

Adapters do not affect each other: each has its own rows of the batch and its own losses. The base is frozen and has no
operation across rows, so one backward pass of the sum of the losses gives each adapter exactly its own gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel, get_peft_model
from torch.nn import functional

from trainables.base.base_model import Base
from trainables.packing import adapter_files, lora_layers, targets
from trainables.packing.batches import stack
from trainables.packing.dropout import PassDropout
from trainables.packing.engine import Segment
from trainables.specs import TrialSpec


@dataclass
class _Adapter:
    parameters: dict[str, torch.nn.Parameter]
    dropout: PassDropout


class PeftEngine:
    """An `Engine` on PEFT's layers. See `trainables.packing.engine.Engine`."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._peft: PeftModel | None = None
        self._adapters: dict[int, _Adapter] = {}
        self._routes = lora_layers.Routes()
        self._keep: torch.Tensor | None = None
        base.model.get_output_embeddings().register_forward_pre_hook(self._keep_labelled)

    def add(self, slot: int, spec: TrialSpec) -> Mapping[str, torch.nn.Parameter]:
        """See `Engine.add`."""
        name = _name(slot)
        config = adapter_files.lora_config(spec, targets.resolve(self.base.model, spec.adapter.target_modules))
        # PEFT draws initial values from the global generator. A fork of it lets the trial's seed alone decide.
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            if self._peft is None:
                self._peft = get_peft_model(self.base.model, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
        dropout = PassDropout()
        lora_layers.attach(self._peft, self._routes, name, spec.adapter.lora_dropout, dropout)
        added = _Adapter(lora_layers.parameters(self._peft, name), dropout)
        self._adapters[slot] = added
        self._set_trainable()
        return added.parameters

    def remove(self, slot: int) -> None:
        """See `Engine.remove`."""
        self._adapters.pop(slot, None)
        name = _name(slot)
        if self._peft is not None and name in self._peft.peft_config:
            lora_layers.detach(self._peft, name)
        self._set_trainable()

    def _set_trainable(self) -> None:
        """Repairs requires_grad: PEFT keeps one adapter trainable when adapters come and go (tuners_utils.py)."""
        for adapter in self._adapters.values():
            for parameter in adapter.parameters.values():
                parameter.requires_grad_(True)

    def token_losses(self, segments: Sequence[Segment]) -> list[torch.Tensor]:
        """See `Engine.token_losses`."""
        batch = stack([row for segment in segments for row in segment.rows])
        for segment in segments:
            if segment.slot is not None:
                self._adapters[segment.slot].dropout.begin(segment.dropout, len(segment.rows), segment.longest)
        # The names stay until the next pass: gradient checkpointing runs the layers again in the backward pass.
        self._routes.names = [_name(segment.slot) for segment in segments for _ in segment.rows]
        self._keep = batch.keep.to(self.base.device)
        try:
            logits_NV = self.base.model(input_ids=batch.ids.to(self.base.device), use_cache=False).logits
        finally:
            self._keep = None
        losses_N = functional.cross_entropy(logits_NV.float(), batch.answers.to(self.base.device), reduction="none")
        return list(losses_N.split([segment.labels for segment in segments]))

    def _keep_labelled(
        self, _head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, ...] | None:
        """Gives the head only the positions that predict a labelled token: (rows, length, width) to (labels, width)."""
        return None if self._keep is None else (inputs[0][self._keep], *inputs[1:])

    def adapter(self, slot: int) -> Mapping[str, bytes]:
        """See `Engine.adapter`."""
        assert self._peft is not None
        return adapter_files.peft_folder(self._peft, _name(slot))


def _name(slot: int | None) -> str:
    """Returns the name of the slot's adapter in PEFT."""
    return lora_layers.NO_ADAPTER if slot is None else f"slot{slot}"
