"""Multiplies a flat sequence with a frozen linear layer and with the LoRA matrices of each adapter's own tokens.

One autograd function per layer: the base's product is computed once for all tokens, and each adapter's part is added in
place. It keeps the inputs and the small products x A^T for the backward pass, and no other activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional


class Part(NamedTuple):
    """One adapter's tokens in the sequence."""

    start: int
    stop: int
    scaling: float
    dropout: torch.Tensor | None
    """(stop - start, features): the factors of the inputs of A; None drops nothing."""


def product(
    x: torch.Tensor, layer: torch.nn.Module, parts: Sequence[Part], matrices: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Returns the layer's outputs, (tokens, out).

    Adapters compute in the type of `x`. Nothing of one adapter's tokens enters the results or gradients of another.

    Args:
        x: (tokens, in).
        layer: the frozen layer: torch.nn.Linear or bitsandbytes' Linear4bit.
        parts: the adapters that change the layer.
        matrices: A (rank, in) and B (out, rank) of the first part, of the second, and so on.
    """
    outputs: torch.Tensor = _Product.apply(x, layer, tuple(parts), *matrices)  # type: ignore[no-untyped-call]
    return outputs


def weight(layer: torch.nn.Module) -> torch.Tensor:
    """Returns the (out, in) weight of a linear layer; a 4-bit weight is dequantised."""
    stored: Any = layer.weight
    state = getattr(stored, "quant_state", None)
    if state is None:
        plain: torch.Tensor = stored.detach()
        return plain
    from bitsandbytes.functional import dequantize_4bit

    whole: torch.Tensor = dequantize_4bit(stored.data, state)
    return whole.to(getattr(layer, "compute_dtype", None) or whole.dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, layer: Any, parts: tuple[Part, ...], *matrices: torch.Tensor
    ) -> torch.Tensor:
        bias = layer.bias
        outputs = functional.linear(x, weight(layer), None if bias is None else bias.to(x.dtype))
        used, small = [matrix.to(x.dtype) for matrix in matrices], []
        for part, a, b in zip(parts, used[::2], used[1::2], strict=True):
            h = (_inputs(x, part) @ a.t()).mul_(part.scaling)
            outputs[part.start : part.stop].addmm_(h, b.t())
            small.append(h)
        ctx.layer, ctx.parts, ctx.types = layer, parts, [matrix.dtype for matrix in matrices]
        ctx.save_for_backward(x, *used, *small)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        gradient = gradients[0].contiguous()
        parts: tuple[Part, ...] = ctx.parts
        x, *saved = ctx.saved_tensors
        matrices, small = saved[: 2 * len(parts)], saved[2 * len(parts) :]
        of_x = gradient @ weight(ctx.layer) if ctx.needs_input_grad[0] else None
        of_matrices = []
        for part, a, b, h in zip(parts, matrices[::2], matrices[1::2], small, strict=True):
            own = gradient[part.start : part.stop]
            of_h = (own @ b).mul_(part.scaling)
            of_matrices += [of_h.t() @ _inputs(x, part), own.t() @ h]
            if of_x is None:
                continue
            if part.dropout is None:
                of_x[part.start : part.stop].addmm_(of_h, a)
            else:
                of_x[part.start : part.stop].addcmul_(of_h @ a, part.dropout)
        return (of_x, None, None, *(each.to(kind) for each, kind in zip(of_matrices, ctx.types, strict=True)))


def _inputs(x: torch.Tensor, part: Part) -> torch.Tensor:
    own = x[part.start : part.stop]
    return own if part.dropout is None else own * part.dropout
