"""Multiplies a flat sequence with the LoRA matrices of all adapters of a pass at once, for GPUs.

A group is the tokens of one segment, and a grouped product multiplies each group with matrices of its own in one
operator. So the number of operators does not grow with the number of adapters. Their matrices are stacked once per
pass, padded with zeros to the largest rank: a row of zeros in A adds nothing to a sum, and its gradient is left out. A
segment without an adapter has zeros alone.

On a CPU torch computes a grouped product one group after the other (torch 2.13), which is slower than `lora_product`
but gives the same numbers. On a GPU the kernel depends on the shapes of the whole product, as it does for the base's
own products: neighbours can change the last digits there, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.nn import functional

ALIGNED = 8
"""Sizes of the matrices are multiples of this: rows of 16 bytes, as torch's grouped product requires in bfloat16
(aten/src/ATen/native/GroupedMMUtils.h, 2.13)."""


class Pair(NamedTuple):
    """The matrices of one adapter for one layer."""

    a: torch.nn.Parameter
    """(rank, in)."""
    b: torch.nn.Parameter
    """(out, rank)."""
    scaling: float


class Stack(NamedTuple):
    """The matrices of all groups for one layer, in the type of the activations."""

    a: torch.Tensor
    """(groups, rank, in)."""
    b: torch.Tensor
    """(groups, out, rank), scaled."""
    ends: torch.Tensor
    """(groups,), int32: where each group's tokens end in the sequence. The first group starts at 0."""


def missing() -> str | None:
    """Returns why there are no grouped products here, or None where there are."""
    if hasattr(functional, "grouped_mm"):
        return None
    return f"torch {torch.__version__} has no torch.nn.functional.grouped_mm; torch 2.10 and later have it"


def fits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tells whether grouped products take a layer with these matrices."""
    return a.shape[1] % ALIGNED == 0 and b.shape[0] % ALIGNED == 0


def stacks(
    layers: Sequence[Sequence[Pair | None]], ends: Sequence[int], device: torch.device, dtype: torch.dtype
) -> list[Stack | None]:
    """Returns the stack of each layer, None for a layer without an adapter. Gradients flow back to the matrices.

    Args:
        layers: for each layer, the matrices of each group. An adapter has one rank for all its layers.
        ends: where the groups end in the sequence.
        device: of the sequence.
        dtype: of the activations.
    """
    adapted = [pairs for pairs in layers if any(pairs)]
    if not adapted:
        return [None] * len(layers)
    plan = _Plan(adapted, device, dtype)
    matrices: Sequence[torch.Tensor] = _Stacked.apply(plan, *plan.parameters)  # type: ignore[no-untyped-call]
    where = torch.tensor(ends, dtype=torch.int32).to(device)
    made = iter([Stack(a, b, where) for a, b in zip(matrices[::2], matrices[1::2], strict=True)])
    return [next(made) if any(pairs) else None for pairs in layers]


def add(outputs: torch.Tensor, x: torch.Tensor, stack: Stack) -> torch.Tensor:
    """Adds each group's part to its own outputs of the base, (tokens, out), in place. Returns them.

    Args:
        outputs: (tokens, out).
        x: (tokens, in), the inputs of the layer.
        stack: the layer's matrices.
    """
    added: torch.Tensor = _Added.apply(outputs, x, *stack)  # type: ignore[no-untyped-call]
    return added


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, outputs: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, ends: torch.Tensor
    ) -> torch.Tensor:
        small = functional.grouped_mm(x, a.transpose(1, 2), offs=ends)
        outputs.add_(functional.grouped_mm(small, b.transpose(1, 2), offs=ends))
        ctx.mark_dirty(outputs)
        ctx.save_for_backward(x, a, b, ends, small)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient = gradients[0].contiguous()
        x, a, b, ends, small = ctx.saved_tensors
        of_small = functional.grouped_mm(gradient, b, offs=ends)
        of_x = functional.grouped_mm(of_small, a, offs=ends) if ctx.needs_input_grad[1] else None
        of_a = functional.grouped_mm(of_small.t(), x, offs=ends)
        of_b = functional.grouped_mm(gradient.t(), small, offs=ends)
        return gradient, of_x, of_a, of_b, None


class _Place(NamedTuple):
    """Where a matrix stands in its stack."""

    layer: int
    group: int
    first: int
    """Row of the layer's first output among the outputs of all layers."""


class _Plan:
    """Where each matrix of a pass stands. Copies go through few operators, however many matrices there are."""

    def __init__(self, layers: Sequence[Sequence[Pair | None]], device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype, self.groups = device, dtype, len(layers[0])
        shapes = [next((pair.a.shape[1], pair.b.shape[0]) for pair in pairs if pair) for pairs in layers]
        self.ins, self.outs = [ins for ins, _ in shapes], [outs for _, outs in shapes]
        firsts = [0, *accumulate(self.outs)]
        self.places: list[_Place] = []
        self.pairs: list[Pair] = []
        for layer, pairs in enumerate(layers):
            for group, pair in enumerate(pairs):
                if pair:
                    self.places.append(_Place(layer, group, firsts[layer]))
                    self.pairs.append(pair)
        self.ranks = [0] * self.groups
        self.scalings = [0.0] * self.groups
        for place, pair in zip(self.places, self.pairs, strict=True):
            self.ranks[place.group], self.scalings[place.group] = pair.a.shape[0], pair.scaling
        self.rank = -(-max(self.ranks) // ALIGNED) * ALIGNED
        self.parameters = [matrix for pair in self.pairs for matrix in (pair.a, pair.b)]

    def dense(self, of_group: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Returns the place of each B, (out, its rank), in matrices that hold those of all layers of a group."""
        return [of_group[place.group][place.first : place.first + self.outs[place.layer]] for place in self.places]

    def per_group(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """Returns zeros for the B of each group in its own rank: (outputs of all layers, rank)."""
        sizes = [sum(self.outs) * rank for rank in self.ranks]
        parts = torch.zeros(sum(sizes), device=self.device, dtype=dtype).split(sizes)
        return [part.view(-1, rank) if rank else part for part, rank in zip(parts, self.ranks, strict=True)]


class _Stacked(torch.autograd.Function):
    """Copies the matrices of all adapters and layers into stacks: A, B of the first layer, of the second, and so on.

    Pieces that lie dense in memory are copied by one operator on lists, which CUDA does in few kernels. B of a rank
    below the largest is not dense in its stack, so each group's goes there through a matrix of its own rank.
    """

    @staticmethod
    def forward(ctx: Any, plan: _Plan, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes = [plan.rank * ins for ins in plan.ins]
        a_GN = torch.zeros(plan.groups, sum(sizes), device=plan.device, dtype=plan.dtype)
        a_of = [part.view(plan.groups, plan.rank, -1) for part in a_GN.split(sizes, dim=1)]
        torch._foreach_copy_([a_of[at.layer][at.group, : plan.ranks[at.group]] for at in plan.places], parameters[::2])
        own = plan.per_group(plan.dtype)
        torch._foreach_copy_(plan.dense(own), parameters[1::2])
        b_GOR = torch.zeros(plan.groups, sum(plan.outs), plan.rank, device=plan.device, dtype=plan.dtype)
        for group, (rank, scaling) in enumerate(zip(plan.ranks, plan.scalings, strict=True)):
            if rank:
                torch.mul(own[group], scaling, out=b_GOR[group, :, :rank])
        ctx.plan = plan
        return tuple(each for pair in zip(a_of, b_GOR.split(plan.outs, dim=1), strict=True) for each in pair)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan: _Plan = ctx.plan
        of_a, of_b = gradients[::2], gradients[1::2]
        numbers = [pair.a.numel() for pair in plan.pairs]
        parts = torch.empty(sum(numbers), device=plan.device).split(numbers)
        grown = [part.view_as(pair.a) for part, pair in zip(parts, plan.pairs, strict=True)]
        torch._foreach_copy_(grown, [of_a[at.layer][at.group, : plan.ranks[at.group]] for at in plan.places])
        b_GOR, own = torch.cat(of_b, dim=1), plan.per_group(torch.float32)
        for group, (rank, scaling) in enumerate(zip(plan.ranks, plan.scalings, strict=True)):
            if rank:
                torch.mul(b_GOR[group, :, :rank], scaling, out=own[group])
        return (None, *(each for pair in zip(grown, plan.dense(own), strict=True) for each in pair))
