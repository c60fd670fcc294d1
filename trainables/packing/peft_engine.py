"""Implements the reference engine: PEFT holds the adapters, and its own layers compute them.

PEFT refuses batches of several adapters in training, with one check on the model (tuners/lora/model.py, 0.21.2). PEFT's
layers can train such batches, so hooks give `adapter_names` to each layer directly. The hooks are permanent, because
gradient checkpointing runs a layer again in the backward pass.

Adapters do not affect each other: each has its own rows of the batch and its own losses. The base is frozen and has no
operation across rows, so one backward pass of the sum of the losses gives each adapter exactly its own gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from trainables.base.base_model import Base
from trainables.errors import ModelError
from trainables.packing.batches import pad, padded_losses
from trainables.packing.engine import Answer, Answering, DropoutKey, Prompt, Segment, dropout_mask
from trainables.packing.generation import generate_plain
from trainables.packing.peft_adapters import PeftAdapters, adapter_name
from trainables.specs import TrialSpec


@dataclass
class Routes:
    """The adapter of each row in the latest pass."""

    names: list[str] = field(default_factory=list)
    length: int = 0
    """Positions of each row, padding included."""
    hooked: set[int] = field(default_factory=set)
    """The `id` of each layer with the hook. The wrapped layers live as long as the model."""


@dataclass
class PassDropout:
    """The settings of one adapter's dropout layers in the present pass."""

    key: DropoutKey | None = None
    """Key of the masks; None drops nothing."""
    rows: int = 0
    length: int = 0
    """Tokens of the adapter's longest row. Padding beyond has no mask, since other adapters cause this padding."""


class SeededDropout(nn.Module):
    """Drops entries with probability `p`, from a generator keyed by (seed, step, micro-batch, layer).

    The masks of `torch.nn.Dropout` depend on earlier uses of the global generator. Here a repeated pass (gradient
    checkpointing, a shared step repeated in smaller parts) draws the same masks again.
    """

    def __init__(self, p: float, layer: int, in_pass: PassDropout) -> None:
        super().__init__()
        self.p = p
        self._layer = layer
        self._in_pass = in_pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Takes (rows, padded length, features) or (rows * padded length, features); returns equal shape and type."""
        key, rows, length = self._in_pass.key, self._in_pass.rows, self._in_pass.length
        if key is None:
            return x
        rows_RTF = x.view(rows, -1, x.shape[-1])
        keep_RLF = dropout_mask(key, self._layer, self.p, (rows, length, x.shape[-1]), x.device)
        mask_RTF = nn.functional.pad(keep_RLF, (0, 0, 0, rows_RTF.shape[1] - length), value=1.0).to(x.dtype)
        return (rows_RTF * mask_RTF).view_as(x)


class PeftEngine:
    """An `Engine` on PEFT's layers. See `trainables.packing.engine.Engine`."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.parallel_passes = 1  # The hooks know of one pass.
        self._adapters = PeftAdapters(base)
        self._dropouts: dict[int, PassDropout] = {}
        self._routes = Routes()
        base.model.register_forward_pre_hook(_measure(self._routes), with_kwargs=True)

    def add(self, slot: int, spec: TrialSpec) -> Mapping[str, torch.nn.Parameter]:
        """See `Engine.add`."""
        parameters = self._adapters.add(slot, spec)
        self._dropouts[slot] = PassDropout()
        _attach(
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
        batch = pad([row for segment in segments for row in segment.rows])
        for segment in segments:
            if segment.slot is not None:
                drops = self._dropouts[segment.slot]
                drops.key, drops.rows, drops.length = segment.dropout, len(segment.rows), segment.longest
        # The names stay until the next pass: gradient checkpointing runs the layers again in the backward pass.
        self._routes.names = [adapter_name(segment.slot) for segment in segments for _ in segment.rows]
        losses_N = padded_losses(self.base.model, batch, self.base.device)
        return list(losses_N.split([segment.labels for segment in segments]))

    def generate(self, prompts: Sequence[Prompt], how: Answering) -> list[Answer]:
        """See `Engine.generate`."""
        for drops in self._dropouts.values():
            drops.key = None

        def route(places: Sequence[int]) -> None:
            self._routes.names = [adapter_name(prompts[place].slot) for place in places]

        ids, seeds = [prompt.ids for prompt in prompts], [prompt.seed for prompt in prompts]
        return generate_plain(self.base.model, ids, seeds, how, self.base.device, route)

    def pass_tokens(self, segments: Sequence[Segment]) -> int:
        """See `Engine.pass_tokens`."""
        return sum(len(segment.rows) for segment in segments) * max(segment.longest for segment in segments)

    def adapter(self, slot: int) -> Mapping[str, bytes]:
        """See `Engine.adapter`."""
        return self._adapters.folder(slot)


def _attach(wrapped: Sequence[LoraLayer], routes: Routes, adapter: str, p: float, dropout: PassDropout) -> None:
    """Adds the routing hook to the layers of a new adapter, and dropout with probability `p` and settings `dropout`."""
    own = 0
    for layer in wrapped:
        if id(layer) not in routes.hooked:
            layer.register_forward_pre_hook(_router(routes), with_kwargs=True)
            _let_add(layer.get_base_layer())
            routes.hooked.add(id(layer))
        if adapter in layer.lora_A and p > 0:
            layer.lora_dropout[adapter] = SeededDropout(p, own, dropout)
        # PEFT computes DoRA in batches of several adapters too; only a check refuses it (tuners/lora/layer.py, 0.21.2).
        layer.use_dora.pop(adapter, None)
        own += adapter in layer.lora_A


def _let_add(base_layer: torch.nn.Module) -> None:
    """Lets PEFT add in place to the output of a 4-bit layer with a bias.

    The output is a view made inside bitsandbytes' autograd function (MatMul4Bit, 0.50.2), and torch refuses to change
    such a view in place while gradients are kept.
    """
    if getattr(base_layer, "bias", None) is not None and hasattr(base_layer.weight, "quant_state"):
        base_layer.register_forward_hook(lambda _layer, _inputs, outputs: outputs.clone())


def _measure(routes: Routes) -> Any:
    def hook(_model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        routes.length = kwargs["input_ids"].shape[1]

    return hook


def _router(routes: Routes) -> Any:
    def hook(_layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        names = routes.names
        if names and args[0].shape[0] != len(names):
            if args[0].dim() == 2 and args[0].shape[0] != len(names) * routes.length:
                raise ModelError(
                    f"adapter.target_modules: an adapted layer is given {args[0].shape[0]} of {len(names)} x "
                    f"{routes.length} tokens, as an expert is, so whose they are is not known: leave it out"
                )
            # Some models (such as OPT) flatten rows and positions before a linear layer.
            names = [name for name in names for _ in range(args[0].shape[0] // len(names))]
        return args, {**kwargs, "adapter_names": names} if names else kwargs

    return hook
