"""Makes PEFT's LoRA layers use several adapters in one pass, in training too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from trainables.errors import ModelError
from trainables.packing.dropout import PassDropout, SeededDropout


@dataclass
class Routes:
    """The adapter of each row in the latest pass."""

    names: list[str] = field(default_factory=list)
    length: int = 0
    """Positions of each row, with those that pad it."""
    hooked: set[int] = field(default_factory=set)
    """The `id` of each layer with the hook. The wrapped layers live as long as the model."""


def attach(wrapped: Sequence[LoraLayer], routes: Routes, adapter: str, p: float, dropout: PassDropout) -> None:
    """Adds the routing hook to the layers of a new adapter, and dropout with probability `p` and settings `dropout`."""
    own = 0
    for layer in wrapped:
        if id(layer) not in routes.hooked:
            layer.register_forward_pre_hook(_router(routes), with_kwargs=True)
            _let_add(layer.get_base_layer())
            routes.hooked.add(id(layer))
        if adapter in layer.lora_A and p > 0:
            layer.lora_dropout[adapter] = SeededDropout(p, own, dropout)
        own += adapter in layer.lora_A


def _let_add(base_layer: torch.nn.Module) -> None:
    """Lets PEFT add in place to the output of a 4-bit layer with a bias.

    That output is a view made inside bitsandbytes' autograd function (MatMul4Bit, 0.50.2), which torch lets nobody
    change in place while gradients are kept.
    """
    if getattr(base_layer, "bias", None) is not None and hasattr(base_layer.weight, "quant_state"):
        base_layer.register_forward_hook(lambda _layer, _inputs, outputs: outputs.clone())


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
