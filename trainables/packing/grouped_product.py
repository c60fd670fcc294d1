"""Multiplies a flat sequence with the LoRA matrices of all adapters of a pass at once, for GPUs.

A group is the tokens of one segment, and a grouped product multiplies each group with the group's matrices in one
operator. So the number of operators does not grow with the number of adapters. The adapters' matrices are stacked once
per pass, padded with zeros to the largest rank: a row of zeros in A adds nothing to a sum, and its gradient is left
out. A segment without an adapter has only zeros.

On a CPU torch computes a grouped product one group after the other (torch 2.13), which is slower than `lora_product`
but gives the same numbers. On a GPU the kernel depends on the shapes of the whole product, as it does for the base's
own products: neighbours can change the last digits there, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, islice
from typing import Any, NamedTuple

import torch
from torch.nn import functional

ALIGNED = 8
"""Sizes of the matrices are multiples of this: rows of 16 bytes, as torch's grouped product requires in bfloat16
(aten/src/ATen/native/GroupedMMUtils.h, 2.13)."""


class LoraPair(NamedTuple):
    """The matrices of one adapter for one layer."""

    a: torch.nn.Parameter
    """(rank, in)."""
    b: torch.nn.Parameter
    """(out, rank)."""
    scaling: float


class Stack(NamedTuple):
    """The matrices of all groups for layers that share an input, in the type of the activations."""

    of: tuple[int, ...]
    """Places of the layers that have an adapter."""
    a: torch.Tensor
    """(groups, sum of the layers' ranks, in): the A of all these layers, joined for one product."""
    b: Sequence[torch.Tensor]
    """For each of these layers, (groups, out, rank), scaled."""
    ends: torch.Tensor
    """(groups,), int32: the end of each group's tokens in the sequence. The first group starts at 0."""


def missing() -> str | None:
    """Returns why this torch has no grouped products; None if it has."""
    if hasattr(functional, "grouped_mm"):
        return None
    return f"torch {torch.__version__} has no torch.nn.functional.grouped_mm; torch 2.10 and later have it"


def fits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tells whether grouped products accept a layer with these matrices."""
    return a.shape[1] % ALIGNED == 0 and b.shape[0] % ALIGNED == 0


def stacks(
    siblings: Sequence[Sequence[Sequence[LoraPair | None]]],
    ends: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
) -> list[Stack | None]:
    """Returns a stack for each set of layers that share an input; None without an adapter. Gradients flow back.

    Args:
        siblings: sets of layers that share an input; for each layer of a set, the matrices of each group. An adapter
            has one rank for all its layers.
        ends: the end of each group in the sequence.
        dtype: type of the activations.
    """
    adapted = [tuple(place for place, pairs in enumerate(layers) if any(pairs)) for layers in siblings]
    if not any(adapted):
        return [None] * len(siblings)
    of_layers = [layers[place] for layers, of in zip(siblings, adapted, strict=True) for place in of]
    plan = _Plan(of_layers, [len(of) for of in adapted if of], device, dtype)
    matrices: Sequence[torch.Tensor] = _Stacked.apply(plan, *plan.parameters)  # type: ignore[no-untyped-call]
    where = torch.tensor(ends, dtype=torch.int32).to(device)
    of_a, of_b = iter(matrices[: len(plan.counts)]), iter(matrices[len(plan.counts) :])
    return [Stack(of, next(of_a), list(islice(of_b, len(of))), where) if of else None for of in adapted]


def add(outputs: Sequence[torch.Tensor], x: torch.Tensor, stack: Stack) -> tuple[torch.Tensor, ...]:
    """Adds each group's part to the group's outputs of the base, in place. Returns the outputs.

    Args:
        outputs: the base's outputs of the layers in `stack.of`, (tokens, out) each.
        x: (tokens, in), the input of these layers.
        stack: the matrices of these layers.
    """
    added: tuple[torch.Tensor, ...] = _Added.apply(x, stack.ends, stack.a, *stack.b, *outputs)  # type: ignore[no-untyped-call]
    return added


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, ends: torch.Tensor, a: torch.Tensor, *bs_and_outputs: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        count = len(bs_and_outputs) // 2
        bs, outputs = bs_and_outputs[:count], bs_and_outputs[count:]
        small = functional.grouped_mm(x, a.transpose(1, 2), offs=ends)
        for output, b, own in zip(outputs, bs, small.tensor_split(count, dim=1), strict=True):
            output.add_(functional.grouped_mm(own, b.transpose(1, 2), offs=ends))
        ctx.mark_dirty(*outputs)
        ctx.save_for_backward(x, ends, a, small, *bs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Grouped products refuse gradients that are not dense, such as that of a sum, whose strides are 0.
        gradients = tuple(gradient.contiguous() for gradient in gradients)
        x, ends, a, small, *bs = ctx.saved_tensors
        of_each = [functional.grouped_mm(each, b, offs=ends) for each, b in zip(gradients, bs, strict=True)]
        of_small = of_each[0] if len(bs) == 1 else torch.cat(of_each, dim=1)
        of_x = functional.grouped_mm(of_small, a, offs=ends) if ctx.needs_input_grad[0] else None
        of_a = functional.grouped_mm(of_small.t(), x, offs=ends)
        own = small.tensor_split(len(bs), dim=1)
        of_b = [functional.grouped_mm(each.t(), h, offs=ends) for each, h in zip(gradients, own, strict=True)]
        return of_x, None, of_a, *of_b, *gradients


class _Place(NamedTuple):
    layer: int
    group: int
    first: int
    """Row of the layer's first output among the outputs of all layers."""


class _Plan:
    """The place of each matrix of a pass, so that few operators copy any number of matrices."""

    def __init__(
        self,
        layers: Sequence[Sequence[LoraPair | None]],
        counts: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """`counts`: number of consecutive layers that share each input."""
        self.counts, self.device, self.dtype, self.groups = counts, device, dtype, len(layers[0])
        shapes = [next((pair.a.shape[1], pair.b.shape[0]) for pair in pairs if pair) for pairs in layers]
        self.ins, self.outs = [ins for ins, _ in shapes], [outs for _, outs in shapes]
        firsts = [0, *accumulate(self.outs)]
        self.places: list[_Place] = []
        self.pairs: list[LoraPair] = []
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

    def shared(self) -> list[tuple[int, int]]:
        """Returns, for each set of layers that share an input, their number and the features of the input."""
        firsts = accumulate(self.counts, initial=0)
        return [(count, self.ins[first]) for count, first in zip(self.counts, firsts, strict=False)]

    def dense(self, of_group: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Returns a view of each B, (out, rank), in matrices that hold the B of all layers of a group."""
        return [of_group[place.group][place.first : place.first + self.outs[place.layer]] for place in self.places]

    def per_group(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """Returns zeros for the B of each group, in the group's own rank: (outputs of all layers, rank)."""
        sizes = [sum(self.outs) * rank for rank in self.ranks]
        parts = torch.zeros(sum(sizes), device=self.device, dtype=dtype).split(sizes)
        return [part.view(-1, rank) if rank else part for part, rank in zip(parts, self.ranks, strict=True)]


class _Stacked(torch.autograd.Function):
    """Copies the matrices of all adapters and layers into stacks: A of layers with one input, then B of each layer.

    One operator on lists copies pieces that are dense in memory, with few CUDA kernels. A B of less than the largest
    rank is not dense in its stack, so the B of each group pass through a matrix of the group's own rank.
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
        shared = a_GN.split([count * plan.rank * ins for count, ins in plan.shared()], dim=1)
        joined = [
            part.view(plan.groups, count * plan.rank, ins)
            for part, (count, ins) in zip(shared, plan.shared(), strict=True)
        ]
        return (*joined, *b_GOR.split(plan.outs, dim=1))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan: _Plan = ctx.plan
        joined, of_b = gradients[: len(plan.counts)], gradients[len(plan.counts) :]
        of_a = [own for part, count in zip(joined, plan.counts, strict=True) for own in part.tensor_split(count, dim=1)]
        numbers = [pair.a.numel() for pair in plan.pairs]
        parts = torch.empty(sum(numbers), device=plan.device).split(numbers)
        grown = [part.view_as(pair.a) for part, pair in zip(parts, plan.pairs, strict=True)]
        torch._foreach_copy_(grown, [of_a[at.layer][at.group, : plan.ranks[at.group]] for at in plan.places])
        b_GOR, own = torch.cat(of_b, dim=1), plan.per_group(torch.float32)
        for group, (rank, scaling) in enumerate(zip(plan.ranks, plan.scalings, strict=True)):
            if rank:
                torch.mul(b_GOR[group, :, :rank], scaling, out=own[group])
        return (None, *(each for pair in zip(grown, plan.dense(own), strict=True) for each in pair))
