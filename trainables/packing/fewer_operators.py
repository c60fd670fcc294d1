"""Computes the norms and the rotations of transformers' blocks with fewer operators.

On a GPU each operator is a kernel. The layers of one model get another forward pass. Their classes stay, so other
models of the process compute as before.
"""

from __future__ import annotations

import inspect
from types import FunctionType, MethodType
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel


def use(model: PreTrainedModel) -> None:
    """Changes the layers of a frozen model. Its numbers stay the same up to rounding."""
    for module in model.modules():
        # Gemma's norms name epsilon differently. They multiply by 1 + weight in float32, which the kernel does not.
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = MethodType(_normed, module)
        # Phi 3 may rotate some of the features only.
        if hasattr(module, "layer_idx") and hasattr(module, "q_proj") and model.config.model_type != "phi3":
            module.forward = MethodType(_rotating(type(module)), module)


def _normed(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Computes a norm in one kernel on a GPU, where transformers' own code takes eight."""
    return functional.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


def _rotating(attention: type[torch.nn.Module]) -> Any:
    """Returns an attention's forward pass with `rotate` in place of `apply_rotary_pos_emb`."""
    whole: Any = inspect.unwrap(attention.forward)
    names = whole.__globals__ | {"apply_rotary_pos_emb": rotate}
    own = FunctionType(whole.__code__, names, whole.__name__, whole.__defaults__, whole.__closure__)
    own.__kwdefaults__ = whole.__kwdefaults__
    return own


def rotate(
    query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns queries and keys with their positions, as transformers' `apply_rotary_pos_emb` does, but both at once.

    Args:
        query: (1, heads, tokens, width).
        key: (1, key heads, tokens, width).
        cos: (1, tokens, width), as `sin`; both halves of the width are equal.
    """
    rotated: tuple[torch.Tensor, torch.Tensor] = _Rotated.apply(query, key, cos[:, None], sin[:, None])  # type: ignore[no-untyped-call]
    return rotated


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.heads = [query.shape[1], key.shape[1]]
        ctx.save_for_backward(cos, sin)
        turned = _turned(torch.cat([query, key], dim=1), cos, sin, 1)
        return turned[:, : query.shape[1]], turned[:, query.shape[1] :]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return *_turned(torch.cat(gradients, dim=1), cos, sin, -1).split(ctx.heads, dim=1), None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, way: int) -> torch.Tensor:
    """Returns x, (1, heads, tokens, width), turned by the angles; turned back if `way` is -1."""
    first, second = x.chunk(2, dim=-1)
    half = sin[..., : first.shape[-1]]
    turned = x * cos
    turned[..., : first.shape[-1]].addcmul_(second, half, value=-way)
    turned[..., first.shape[-1] :].addcmul_(first, half, value=way)
    return turned
