"""Applies dropout with masks that depend on the trial alone, not on other trials or on repeated passes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn


class DropoutKey(NamedTuple):
    """Decides, with the layer, the masks of one adapter in one pass."""

    seed: int
    step: int
    micro_batch: int


@dataclass
class PassDropout:
    """What the dropout layers of one adapter go by in the present pass."""

    key: DropoutKey | None = None
    """Decides the masks; None drops nothing."""
    rows: int = 0
    """Rows of the adapter."""
    length: int = 0
    """Tokens of its longest row. Padding beyond it gets no mask, since other adapters cause it."""


class SeededDropout(nn.Module):
    """Drops entries with probability `p`, from a generator keyed by (seed, step, micro-batch, layer).

    The masks of `torch.nn.Dropout` depend on earlier uses of the global generator. Here a repeated pass (gradient
    checkpointing, a shared step repeated in smaller parts) draws the same masks again.
    """

    def __init__(self, p: float, layer: int, in_pass: PassDropout) -> None:
        super().__init__()
        self.p = p
        self._layer = layer
        self._in_pass = in_pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Takes (rows, padded length, features) or (rows * padded length, features); returns equal shape and type."""
        key, rows, length = self._in_pass.key, self._in_pass.rows, self._in_pass.length
        if key is None:
            return x
        rows_RTF = x.view(rows, -1, x.shape[-1])
        keep_RLF = mask(key, self._layer, self.p, (rows, length, x.shape[-1]), x.device)
        mask_RTF = nn.functional.pad(keep_RLF, (0, 0, 0, rows_RTF.shape[1] - length), value=1.0).to(x.dtype)
        return (rows_RTF * mask_RTF).view_as(x)


def mask(key: DropoutKey, layer: int, p: float, shape: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """Returns the factors of one layer's inputs, 0 or 1 / (1 - p), in fp32.

    Args:
        key: the trial, step and micro-batch.
        layer: place of the layer among the layers of the adapter.
        p: probability to drop an entry.
        shape: rows, tokens of the longest row, features.
        device: where the factors are used. Other kinds of device draw other masks.
    """
    generator = torch.Generator(device=device)
    text = f"{key.seed} {key.step} {key.micro_batch} {layer}".encode()
    generator.manual_seed(int.from_bytes(hashlib.blake2b(text, digest_size=7).digest()))
    uniform = torch.rand(shape, generator=generator, device=device)
    return (uniform >= p).to(torch.float32) / (1.0 - p)
