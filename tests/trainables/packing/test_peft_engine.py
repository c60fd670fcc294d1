"""Each token of a layer's input goes through the adapter of its own row, or the pass fails."""

from __future__ import annotations

import packs
import pytest
import torch

from trainables.errors import ModelError
from trainables.packing.engine import Segment
from trainables.packing.peft_engine import PeftEngine

ROWS = packs.train_rows(0, 1)


class Flattened(torch.nn.Module):
    """A part of a model that sees the tokens of all rows in one dimension, or only the first `count` of them."""

    def __init__(self, inner: torch.nn.Module, count: int | None) -> None:
        super().__init__()
        self.inner, self.count = inner, count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        seen = self.inner(flat[: self.count])
        return torch.cat([seen, flat[len(seen) :]]).view_as(x)


def losses(count: int | None, flattens: bool = True) -> list[torch.Tensor]:
    base = packs.base()
    layer = base.model.model.layers[0]
    layer.mlp = Flattened(layer.mlp, count) if flattens else layer.mlp
    engine = PeftEngine(base)
    for slot in range(2):
        packs.add(engine, slot, packs.spec(seed=slot), seed=slot)
    return engine.token_losses([Segment(slot, [row]) for slot, row in enumerate(ROWS)])


def test_flattened_rows_keep_their_adapters() -> None:
    for found, expected in zip(losses(None), losses(None, flattens=False), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("tokens", [1, 5, 8])
def test_some_tokens_of_a_pass_are_refused(tokens: int) -> None:
    longest = max(len(row.ids) for row in ROWS)
    with pytest.raises(ModelError, match=rf"^adapter.target_modules: .* is given {tokens} of 2 x {longest} tokens"):
        losses(tokens)
