"""Multiplies a flat sequence with frozen linear layers and with the LoRA matrices of each adapter's own tokens.

In training, one autograd function computes the layers that share an input, such as those of queries, keys and values.
Each layer of the base multiplies all tokens once, and each adapter's part is added in place, one adapter after the
other. The matrices A of an adapter's layers form one matrix, so they take one product. For the backward pass the
function keeps the inputs and the small products x A^T, and no other activation. In evaluation an adapter with many
tokens is added to the weight first; see `_merges`.

One product for the matrices of all adapters, padded to the largest rank, is slower on a CPU than one adapter after the
other, except for a single adapter. The table has the processor time in ms of one thread, forward + backward, for the
seven layers of a block of SmolLM2-135M, all adapted, with 412 tokens per adapter. The base's products take 20 + 20 per
adapter. A single adapter has rank 16, several have 4, 8, 16 and 32 in turn:

    adapters   in turn       bmm           grouped_mm
    1          1.7 + 4.0     1.5 + 3.4     2.5 + 4.8
    4          9.1 + 17.8    10.6 + 20.7   12.7 + 25.8
    8          21.7 + 42.8   25.4 + 56.2   33.2 + 64.4
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from trainables.quantization import weight


class Part(NamedTuple):
    """One adapter's tokens in the sequence."""

    start: int
    stop: int
    scaling: float
    dropout: torch.Tensor | None
    """(stop - start, features): the dropout factors of the inputs of A; None drops nothing."""
    of: tuple[int, ...] = (0,)
    """Places of the layers that the adapter changes. Their A are contiguous in memory; see `side_by_side`."""


def side_by_side(matrices: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Returns copies of one adapter's A matrices, all of one shape, that are contiguous in memory, in order."""
    if not matrices:
        return []
    return list(torch.cat([matrix.detach() for matrix in matrices]).split([len(matrix) for matrix in matrices]))


def cast(dtype: torch.dtype, parameters: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Returns parameters of one device in the type of activations, in order, in one buffer. Gradients flow back.

    Call this for all matrices of a pass at once: one operator on lists replaces two copies for each matrix.
    """
    if not parameters:
        return ()
    copies: Sequence[torch.Tensor] = _Cast.apply(dtype, *parameters)  # type: ignore[no-untyped-call]
    return copies


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.like = parameters
        return _copies(parameters, parameters, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *_copies(gradients, ctx.like, ctx.like[0].dtype)


def _copies(tensors: Sequence[torch.Tensor], like: Sequence[torch.Tensor], dtype: torch.dtype) -> tuple[Any, ...]:
    sizes = [each.numel() for each in like]
    parts = like[0].new_empty(sum(sizes), dtype=dtype).split(sizes)
    copies = tuple(part.view(each.shape) for part, each in zip(parts, like, strict=True))
    torch._foreach_copy_(copies, tuple(tensors))
    return copies


def products(
    x: torch.Tensor, layers: Sequence[torch.nn.Module], parts: Sequence[Part], matrices: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Returns the outputs of layers that share their input: (tokens, out) each.

    Nothing of one adapter's tokens enters the results or gradients of another.

    Args:
        x: (tokens, in).
        layers: the frozen layers: plain or quantised.
        parts: the adapters that change the layers.
        matrices: A (rank, in) and B (out, rank) for each layer of the first part, then of the second, and so on, in the
            type of `x`.
    """
    if not torch.is_grad_enabled():
        return _without_gradients(x, layers, _adapters(parts, matrices))
    outputs: tuple[torch.Tensor, ...] = _Products.apply(x, layers, tuple(parts), *matrices)  # type: ignore[no-untyped-call]
    return outputs


class Decomposed(NamedTuple):
    """An adapter of DoRA in one layer."""

    layer: torch.nn.Module
    part: Part
    lengths: torch.Tensor
    """(out,): the length that each row of the weight shall have."""
    matrices: Sequence[torch.Tensor]
    """A and B, in the type of the activations."""


def with_lengths(outputs: torch.Tensor, x: torch.Tensor, dora: Decomposed) -> torch.Tensor:
    """Returns the outputs of a layer, those of the adapter's tokens scaled to DoRA's lengths.

    Each output without its bias is multiplied by the length that its row of the weight shall have / the length of that
    row of W + scaling B A, which counts as constant (arXiv 2402.09353, section 4.3). As PEFT (tuners/lora/dora.py,
    0.21.2), dropout leaves out inputs of this addition and none of the base's own.

    Args:
        outputs: (tokens, out), of the base and the plain LoRA of this adapter. They stay as they are.
        x: (tokens, in).
    """
    part, layer, (a, b) = dora.part, dora.layer, dora.matrices
    before, own, after = outputs.tensor_split((part.start, part.stop))
    with torch.no_grad():
        whole = weight(layer).float().addmm(b.float(), a.float(), alpha=part.scaling)
        norms = torch.linalg.vector_norm(whole, dim=1)
    factors = (dora.lengths / norms - 1.0).to(outputs.dtype)
    added = own
    if part.dropout is not None:
        inputs = _inputs(x, part)
        alone = part._replace(start=0, stop=len(inputs), dropout=None)
        (added,) = products(inputs, [layer], [alone], dora.matrices)
    bias = _bias(layer, x)
    added = added if bias is None else added - bias
    return torch.cat([before, own + factors * added, after])


def device(layer: torch.nn.Module) -> torch.device:
    """Returns the device of a linear layer, and so of its inputs, its outputs and its adapters."""
    stored: Any = layer.weight
    where: torch.device = stored.device
    return where


def multiply(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
    """Writes the outputs of a linear layer to `out`, and returns `out`. For use without gradients."""
    if bias is None:
        return torch.mm(x, weight.t(), out=out)
    return torch.addmm(bias, x, weight.t(), out=out)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, layers: Sequence[Any], parts: tuple[Part, ...], *matrices: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        outputs = tuple(functional.linear(x, weight(layer), _bias(layer, x)) for layer in layers)
        small = _add(outputs, x, _adapters(parts, matrices))
        ctx.layers, ctx.parts = layers, parts
        # Without adapters no activation is needed.
        ctx.save_for_backward(x if parts else None, *matrices, *small)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        gradients = tuple(gradient.contiguous() for gradient in gradients)
        x, *saved = ctx.saved_tensors
        of_x: torch.Tensor | None = None
        for layer, gradient in zip(ctx.layers, gradients, strict=True) if ctx.needs_input_grad[0] else ():
            of_x = gradient @ weight(layer) if of_x is None else of_x.addmm_(gradient, weight(layer))
        count = len(saved) - len(ctx.parts)
        of_matrices = []
        for adapter, h in zip(_adapters(ctx.parts, saved[:count]), saved[count:], strict=True):
            part = adapter.part
            own = [gradients[place][part.start : part.stop] for place in part.of]
            of_h = torch.empty_like(h)
            for gradient, b, of_small in zip(own, adapter.b, of_h.tensor_split(len(own), dim=1), strict=True):
                of_small.addmm_(gradient, b, beta=0, alpha=part.scaling)
            of_a = (of_h.t() @ _inputs(x, part)).tensor_split(len(own))
            of_b = map(_of_b, own, h.tensor_split(len(own), dim=1), [part.scaling] * len(own))
            of_matrices += [each for pair in zip(of_a, of_b, strict=True) for each in pair]
            if of_x is None:
                continue
            if part.dropout is None:
                of_x[part.start : part.stop].addmm_(of_h, adapter.a)
            else:
                of_x[part.start : part.stop].addcmul_(of_h @ adapter.a, part.dropout)
        return (of_x, None, None, *of_matrices)


def _of_b(gradient: torch.Tensor, h: torch.Tensor, scaling: float) -> torch.Tensor:
    """Returns the gradient of B, dense in memory, since autograd would copy any other gradient."""
    if gradient.dtype != torch.float32:
        return gradient.new_empty(gradient.shape[1], h.shape[1]).addmm_(gradient.t(), h, beta=0, alpha=scaling)
    # MKL multiplies a few rows with many columns faster than many rows with a few columns.
    turned = gradient.new_empty(h.shape[1], gradient.shape[1]).addmm_(h.t(), gradient, beta=0, alpha=scaling)
    return turned.t().contiguous()


def _inputs(x: torch.Tensor, part: Part) -> torch.Tensor:
    own = x[part.start : part.stop]
    return own if part.dropout is None else own * part.dropout


class _Adapter(NamedTuple):
    part: Part
    a: torch.Tensor
    """(sum of the layers' ranks, in): the A of all layers."""
    b: Sequence[torch.Tensor]
    """B of each layer: (out, rank)."""


def _adapters(parts: Sequence[Part], matrices: Sequence[torch.Tensor]) -> list[_Adapter]:
    ends = accumulate((2 * len(part.of) for part in parts), initial=0)
    adapters = []
    for part, (start, stop) in zip(parts, pairwise(ends), strict=True):
        first = matrices[start]
        a = first.as_strided((len(part.of) * first.shape[0], first.shape[1]), first.stride())
        adapters.append(_Adapter(part, a, matrices[start + 1 : stop : 2]))
    return adapters


def _add(outputs: Sequence[torch.Tensor], x: torch.Tensor, adapters: Sequence[_Adapter]) -> list[torch.Tensor]:
    """Adds each adapter's part to the outputs of the base. Returns each adapter's product x A^T."""
    small = []
    for part, a, bs in adapters:
        h = _inputs(x, part) @ a.t()
        for place, b, own in zip(part.of, bs, h.tensor_split(len(part.of), dim=1), strict=True):
            outputs[place][part.start : part.stop].addmm_(own, b.t(), alpha=part.scaling)
        small.append(h)
    return small


def _without_gradients(
    x: torch.Tensor, layers: Sequence[Any], adapters: Sequence[_Adapter]
) -> tuple[torch.Tensor, ...]:
    if x.dtype != torch.float32:
        outputs = tuple(functional.linear(x, weight(layer), _bias(layer, x)) for layer in layers)
        _add(outputs, x, adapters)
        return outputs
    of_layers: list[list[_Adapter]] = [[] for _ in layers]
    for part, whole, bs in adapters:
        for place, a, b in zip(part.of, whole.tensor_split(len(part.of)), bs, strict=True):
            of_layers[place].append(_Adapter(part._replace(of=(0,)), a, [b]))
    return tuple(_merged(x, layer, own) for layer, own in zip(layers, of_layers, strict=True))


def _merged(x: torch.Tensor, layer: Any, adapters: Sequence[_Adapter]) -> torch.Tensor:
    """Returns the outputs of one layer. Adapters with many tokens are added to its weight first; see `_merges`."""
    whole, bias = weight(layer), _bias(layer, x)
    merged = [adapter for adapter in adapters if _merges(adapter.part, whole)]
    if not merged:
        outputs = functional.linear(x, whole, bias)
        _add([outputs], x, adapters)
        return outputs
    outputs, done = x.new_empty(len(x), len(whole)), 0
    for part, a, (b,) in merged:
        between, own = slice(done, part.start), slice(part.start, part.stop)
        multiply(x[between], whole, bias, outputs[between])
        multiply(x[own], torch.addmm(whole, b, a, alpha=part.scaling), bias, outputs[own])
        done = part.stop
    multiply(x[done:], whole, bias, outputs[done:])
    _add([outputs], x, [adapter for adapter in adapters if not _merges(adapter.part, whole)])
    return outputs


def _merges(part: Part, whole: torch.Tensor) -> bool:
    """Tells whether adding an adapter to the weight before multiplying its tokens takes fewer operations.

    With 2,048 tokens, r 16 and all layers of SmolLM2-135M adapted, merging lowers the cost of adapters from 13 % of the
    base's products to 5 %. Without merging the layers took 3 % more time, and 15 % with r 64. Types narrower than
    float32 are never merged: they would round the adapter away.
    """
    outs, ins = whole.shape
    costs_less = (part.stop - part.start) * (ins + outs) > ins * outs
    return costs_less and part.dropout is None and whole.dtype == torch.float32


def _bias(layer: Any, x: torch.Tensor) -> torch.Tensor | None:
    bias: torch.Tensor | None = layer.bias
    return None if bias is None else bias.to(x.dtype)
