"""Dropout whose mask depends on the trial alone, not on its neighbours or on how often a layer is run again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Draw:
    """What the masks of one slot depend on; the pack moves it on before every pass."""

    seed: int
    step: int = 0
    micro_batch: int = 0
    rows: int = 0
    length: int = 0
    """Tokens of the slot's longest row in this pass: the padding that neighbours cause gets no mask."""
    training: bool = False


class SeededDropout(nn.Module):
    """Drops entries with probability `p`, from a generator keyed by (seed, step, micro-batch, layer).

    `torch.nn.Dropout` reads the global generator, so its masks follow from whatever ran before. Here a pass that is
    repeated (gradient checkpointing, a shared step redone in smaller parts) draws the same masks again.
    """

    def __init__(self, p: float, layer: int, draw: Draw) -> None:
        super().__init__()
        self.p = p
        self._layer = layer
        self._draw = draw

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (rows, padded length, features) or (rows * padded length, features); same shape and type out."""
        draw = self._draw
        if not draw.training:
            return x
        rows_RTF = x.view(draw.rows, -1, x.shape[-1])
        keep_RLF = self._mask(draw, x.shape[-1], x.device)
        padding = rows_RTF.shape[1] - draw.length
        mask_RTF = nn.functional.pad(keep_RLF, (0, 0, 0, padding), value=1.0).to(x.dtype)
        return (rows_RTF * mask_RTF).view_as(x)

    def _mask(self, draw: Draw, features: int, device: torch.device) -> torch.Tensor:
        generator = torch.Generator(device=device)
        key = f"{draw.seed} {draw.step} {draw.micro_batch} {self._layer}".encode()
        generator.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=7).digest()))
        shape = (draw.rows, draw.length, features)
        uniform = torch.rand(shape, generator=generator, device=device)
        return (uniform >= self.p).to(torch.float32) / (1.0 - self.p)
