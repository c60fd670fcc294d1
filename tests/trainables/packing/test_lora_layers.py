"""Each token of a layer's input goes through the adapter of its own row, or the pass fails."""

from __future__ import annotations

import pytest
import torch

from trainables.errors import ModelError
from trainables.packing.lora_layers import Routes, _router


def routed(*shape: int) -> list[str]:
    """The adapters of the first axis of an input of this shape, in a pass of two rows of three positions."""
    hook = _router(Routes(names=["a", "b"], length=3))
    _, keywords = hook(None, (torch.zeros(shape),), {})
    names: list[str] = keywords["adapter_names"]
    return names


def test_rows_and_flattened_rows_keep_their_adapters() -> None:
    assert routed(2, 3, 8) == ["a", "b"]
    assert routed(6, 8) == ["a", "a", "a", "b", "b", "b"]


@pytest.mark.parametrize("tokens", [1, 4, 5, 8])
def test_some_tokens_of_a_pass_are_refused(tokens: int) -> None:
    with pytest.raises(ModelError, match=rf"^adapter.target_modules: .* is given {tokens} of 2 x 3 tokens"):
        routed(tokens, 8)
