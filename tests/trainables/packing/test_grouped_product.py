"""What grouped products ask of a GPU's matrices. That their numbers are right is in tests/contracts/test_engines.py."""

from __future__ import annotations

import torch

from trainables.packing import grouped_product, lora_product
from trainables.packing.grouped_product import Pair

SIZES = [(24, 40), (40, 16)]
"""(in, out) of two layers."""
ENDS = [7, 8, 20, 25]
RANKS: list[int | None] = [4, None, 16, 3]
"""By group; None for tokens of the base alone."""


def drawn(without: set[tuple[int, int]]) -> list[list[Pair | None]]:
    """The matrices of each layer and group; `without` are the (layer, group) that have none."""
    return [
        [
            None
            if rank is None or (layer, group) in without
            else Pair(
                torch.nn.Parameter(torch.randn(rank, ins)), torch.nn.Parameter(torch.randn(outs, rank)), 0.5 + group
            )
            for group, rank in enumerate(RANKS)
        ]
        for layer, (ins, outs) in enumerate(SIZES)
    ]


def together(layers: list[list[Pair | None]], bases: list[torch.nn.Linear], x: torch.Tensor) -> torch.Tensor:
    for stack, base in zip(
        grouped_product.stacks([[each] for each in layers], ENDS, x.device, x.dtype), bases, strict=True
    ):
        (outputs,) = lora_product.products(x, [base], [], [])
        (x,) = (outputs,) if stack is None else grouped_product.add([outputs], x, stack)
    return x


def test_gradients_without_strides_reach_grouped_products_dense_and_have_the_shapes_of_the_matrices():
    # Without numbers, torch checks what its kernels ask of a GPU's matrices: they refuse the gradient of a sum.
    with torch.device("meta"):
        layers = drawn({(0, 0)})
        bases = [torch.nn.Linear(ins, outs, dtype=torch.bfloat16).requires_grad_(False) for ins, outs in SIZES]
        x = torch.randn(ENDS[-1], SIZES[0][0], dtype=torch.bfloat16).requires_grad_()
        together(layers, bases, x).sum().backward()
    for matrix in [x, *(matrix for pairs in layers for pair in pairs if pair for matrix in (pair.a, pair.b))]:
        assert matrix.grad is not None
        assert (matrix.grad.shape, matrix.grad.dtype) == (matrix.shape, matrix.dtype)


def test_no_adapter_makes_no_stack():
    assert grouped_product.stacks([[[None, None]]], [3, 5], torch.device("cpu"), torch.float32) == [None]


def test_layers_of_odd_sizes_are_left_to_the_other_way():
    assert grouped_product.fits(torch.empty(4, 24), torch.empty(40, 4))
    assert not grouped_product.fits(torch.empty(4, 20), torch.empty(40, 4))
    assert not grouped_product.fits(torch.empty(4, 24), torch.empty(36, 4))
