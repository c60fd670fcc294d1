"""All adapters at once give the products and gradients of one after the other, at any mix of ranks and layers."""

from __future__ import annotations

import pytest
import torch

from trainables.packing import grouped_product, lora_product
from trainables.packing.grouped_product import LoraPair
from trainables.packing.lora_product import Part

SIZES = [(24, 40), (40, 16)]
"""(in, out) of two layers."""
ENDS = [7, 8, 20, 25]
RANKS: list[int | None] = [4, None, 16, 3]
"""By group; None for tokens of the base alone."""


def drawn(dtype: torch.dtype, without: set[tuple[int, int]]) -> list[list[LoraPair | None]]:
    """The matrices of each layer and group; `without` are the (layer, group) that have none."""
    torch.manual_seed(0)

    def pair(layer: int, group: int) -> LoraPair | None:
        rank, (ins, outs) = RANKS[group], SIZES[layer]
        if rank is None or (layer, group) in without:
            return None
        a, b = (torch.nn.Parameter(torch.randn(*size)) for size in ((rank, ins), (outs, rank)))
        return LoraPair(a, b, 0.5 + group)

    return [[pair(layer, group) for group in range(len(RANKS))] for layer in range(len(SIZES))]


def gradients(layers: list[list[LoraPair | None]], outputs: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    matrices = [matrix for pairs in layers for pair in pairs if pair for matrix in (pair.a, pair.b)]
    return list(torch.autograd.grad(outputs.square().sum(), [x, *matrices]))


def in_turn(layers: list[list[LoraPair | None]], bases: list[torch.nn.Linear], x: torch.Tensor) -> torch.Tensor:
    for pairs, base in zip(layers, bases, strict=True):
        bounds = list(zip([0, *ENDS], ENDS, pairs, strict=False))
        parts = [Part(start, stop, pair.scaling, None) for start, stop, pair in bounds if pair]
        matrices = lora_product.cast(x.dtype, [matrix for pair in pairs if pair for matrix in (pair.a, pair.b)])
        (x,) = lora_product.products(x, [base], parts, matrices)
    return x


def together(layers: list[list[LoraPair | None]], bases: list[torch.nn.Linear], x: torch.Tensor) -> torch.Tensor:
    for stack, base in zip(
        grouped_product.stacks([[each] for each in layers], ENDS, x.device, x.dtype), bases, strict=True
    ):
        (outputs,) = lora_product.products(x, [base], [], [])
        (x,) = (outputs,) if stack is None else grouped_product.add([outputs], x, stack)
    return x


@pytest.mark.parametrize("without", [set(), {(0, 0), (1, 3)}, {(1, 0), (1, 2), (1, 3)}], ids=["all", "mixed", "one"])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"])
def test_products_and_gradients_are_those_of_each_in_turn(dtype, within, without):
    layers = drawn(dtype, without)
    bases = [torch.nn.Linear(ins, outs, dtype=dtype).requires_grad_(False) for ins, outs in SIZES]
    x = torch.randn(ENDS[-1], SIZES[0][0], dtype=dtype).requires_grad_()
    expected, found = in_turn(layers, bases, x), together(layers, bases, x)
    # Relative to the largest number: bfloat16 rounds sums of many terms, in another order.
    near = {"rtol": 0.0, "atol": within * expected.abs().max().item()}
    torch.testing.assert_close(found, expected, **near)
    for ours, theirs in zip(gradients(layers, found, x), gradients(layers, expected, x), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=within * theirs.abs().max().item())
    with torch.no_grad():
        torch.testing.assert_close(together(layers, bases, x), expected, **near)


def test_gradients_without_strides_reach_grouped_products_dense_and_have_the_shapes_of_the_matrices():
    # Without numbers, torch checks what its kernels ask of a GPU's matrices: they refuse the gradient of a sum.
    with torch.device("meta"):
        layers = drawn(torch.bfloat16, {(0, 0)})
        bases = [torch.nn.Linear(ins, outs, dtype=torch.bfloat16).requires_grad_(False) for ins, outs in SIZES]
        x = torch.randn(ENDS[-1], SIZES[0][0], dtype=torch.bfloat16).requires_grad_()
        together(layers, bases, x).sum().backward()
    for matrix in [x, *(matrix for pairs in layers for pair in pairs if pair for matrix in (pair.a, pair.b))]:
        assert matrix.grad is not None
        assert (matrix.grad.shape, matrix.grad.dtype) == (matrix.shape, matrix.dtype)


def test_no_adapter_makes_no_stack_and_layers_of_odd_sizes_are_left_to_the_other_way():
    assert grouped_product.stacks([[[None, None]]], [3, 5], torch.device("cpu"), torch.float32) == [None]
    assert grouped_product.fits(torch.empty(4, 24), torch.empty(40, 4))
    assert not grouped_product.fits(torch.empty(4, 20), torch.empty(40, 4))
    assert not grouped_product.fits(torch.empty(4, 24), torch.empty(36, 4))
