"""Implements the reference engine: PEFT holds the adapters, and its own layers compute them.

PEFT refuses batches of several adapters in training, with one check on the model (tuners/lora/model.py, 0.21.2). Its
layers can train such batches, so hooks give `adapter_names` to each layer directly. The hooks are permanent, because
gradient checkpointing runs a layer again in the backward pass.

Adapters do not affect each other: each has its own rows of the batch and its own losses. The base is frozen and has no
operation across rows, so one backward pass of the sum of the losses gives each adapter exactly its own gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from trainables.base.base_model import Base
from trainables.packing import lora_layers
from trainables.packing.batches import stack, token_losses
from trainables.packing.dropout import PassDropout
from trainables.packing.engine import Segment
from trainables.packing.peft_adapters import PeftAdapters, adapter_name
from trainables.specs import TrialSpec


class PeftEngine:
    """An `Engine` on PEFT's layers. See `trainables.packing.engine.Engine`."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.at_once = 1  # The hooks know of one pass.
        self._adapters = PeftAdapters(base)
        self._dropouts: dict[int, PassDropout] = {}
        self._routes = lora_layers.Routes()

    def add(self, slot: int, spec: TrialSpec) -> Mapping[str, torch.nn.Parameter]:
        """See `Engine.add`."""
        parameters = self._adapters.add(slot, spec)
        self._dropouts[slot] = PassDropout()
        lora_layers.attach(
            self._adapters.layers(),
            self._routes,
            adapter_name(slot),
            spec.adapter.lora_dropout,
            self._dropouts[slot],
        )
        return parameters

    def remove(self, slot: int) -> None:
        """See `Engine.remove`."""
        self._dropouts.pop(slot, None)
        self._adapters.remove(slot)

    def token_losses(self, segments: Sequence[Segment]) -> list[torch.Tensor]:
        """See `Engine.token_losses`."""
        batch = stack([row for segment in segments for row in segment.rows])
        for segment in segments:
            if segment.slot is not None:
                drops = self._dropouts[segment.slot]
                drops.key, drops.rows, drops.length = segment.dropout, len(segment.rows), segment.longest
        # The names stay until the next pass: gradient checkpointing runs the layers again in the backward pass.
        self._routes.names = [adapter_name(segment.slot) for segment in segments for _ in segment.rows]
        self._routes.length = batch.ids.shape[1]
        losses_N = token_losses(self.base.model, batch, self.base.device)
        return list(losses_N.split([segment.labels for segment in segments]))

    def pass_tokens(self, segments: Sequence[Segment]) -> int:
        """See `Engine.pass_tokens`."""
        return sum(len(segment.rows) for segment in segments) * max(segment.longest for segment in segments)

    def adapter(self, slot: int) -> Mapping[str, bytes]:
        """See `Engine.adapter`."""
        return self._adapters.folder(slot)
