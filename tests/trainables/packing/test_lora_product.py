"""Products without gradients are those with gradients, whether an adapter joins the weight or the outputs."""

from __future__ import annotations

import pytest
import torch

from trainables.packing import lora_product
from trainables.packing.lora_product import Part

IN, OUT = 24, 40
FEW, MANY = 10, 30
"""Tokens below and above IN * OUT / (IN + OUT) = 15, from which an adapter is added to the weight."""


def layer(bias: bool, dtype: torch.dtype) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(IN, OUT, bias=bias, dtype=dtype).requires_grad_(False)


def drawn(lengths: list[int], dropped: set[int], dtype: torch.dtype) -> tuple[torch.Tensor, list[Part], list]:
    """Inputs, parts and matrices for stretches of tokens; each second one, from the second on, has an adapter."""
    torch.manual_seed(1)
    x = torch.randn(sum(lengths), IN, dtype=dtype)
    parts, matrices, start = [], [], 0
    for place, length in enumerate(lengths):
        if place % 2:
            factors = torch.randint(0, 2, (length, IN), dtype=dtype) if place in dropped else None
            parts.append(Part(start, start + length, 0.5 * place, factors))
            matrices += [torch.randn(place + 1, IN), torch.randn(OUT, place + 1)]
        start += length
    return x, parts, matrices


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize(
    ("lengths", "dropped"),
    [([0, MANY], set()), ([4, MANY, 7, FEW, 0, MANY, 5], set()), ([3, MANY, 0, MANY], {1}), ([2, FEW], set())],
    ids=["one for all tokens", "stretches", "dropout", "few tokens"],
)
def test_without_gradients_the_products_are_the_same(bias, lengths, dropped):
    x, parts, matrices = drawn(lengths, dropped, torch.float32)
    given = layer(bias, torch.float32)
    trained = lora_product.products(x, [given], parts, [matrix.requires_grad_() for matrix in matrices])[0]
    assert trained.requires_grad
    expected = trained.detach()
    with torch.no_grad():
        found = lora_product.products(x, [given], parts, matrices)[0]
    # Parts of an output are as large as the largest outputs, and round in the last of their 7 digits.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(("dtype", "length", "merges"), [
    (torch.float32, MANY, True), (torch.float32, FEW, False), (torch.bfloat16, MANY, False),
])  # fmt: skip
def test_an_adapter_is_added_to_the_weight_where_that_costs_less_and_keeps_its_digits(dtype, length, merges):
    assert lora_product._merges(Part(5, 5 + length, 1.0, None), layer(False, dtype).weight) is merges
    factors = torch.ones(length, IN, dtype=dtype)
    assert not lora_product._merges(Part(5, 5 + length, 1.0, factors), layer(False, dtype).weight)


def test_a_nan_in_one_adapter_stays_in_its_tokens():
    x, parts, matrices = drawn([4, MANY, 0, MANY, 3], set(), torch.float32)
    matrices[0][0, 0] = torch.nan
    with torch.no_grad():
        found = lora_product.products(x, [layer(False, torch.float32)], parts, matrices)[0]
    sick = found.isnan().any(dim=1)
    assert sick.tolist() == [False] * 4 + [True] * MANY + [False] * (MANY + 3)
