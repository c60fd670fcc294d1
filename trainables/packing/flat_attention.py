"""Computes causal attention inside each row of a flat sequence, through transformers' interface for attention.

transformers builds no mask for an attention function that it does not know (masking_utils.py,
_preprocess_mask_arguments, 5.24), so no mask over all pairs of tokens is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from trainables.packing.batches import Piece

NAME = "flat_rows"


class Grid(NamedTuple):
    """The rows of a sequence side by side, each filled up with its own last token: no row sees another one's tokens."""

    rows: int
    places: torch.Tensor
    """(rows * longest,): the token at each place, row after row."""
    back: torch.Tensor
    """(tokens,): the place of each token. A token of a start that rows share has a place in each: one of these."""


def grid(pieces: Sequence[Piece], device: torch.device) -> Grid:
    """Returns the rows of a sequence side by side.

    CUDA adds the gradients of a start that rows share in no fixed order, so a repeat may differ in the last digit.
    """
    ends = list(accumulate(piece.length for piece in pieces))
    own = [range(end - piece.length, end) for piece, end in zip(pieces, ends, strict=True)]
    starts = {piece.after for piece in pieces}
    rows = [
        [*(() if piece.after is None else own[piece.after]), *own[place]]
        for place, piece in enumerate(pieces)
        if place not in starts
    ]
    longest = max(len(row) for row in rows)
    places = torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])
    back = torch.empty(ends[-1], dtype=torch.long)
    for place, row in enumerate(rows):
        back[row] = torch.arange(len(row)) + place * longest
    return Grid(len(rows), places.view(-1).to(device), back.to(device))


def use(model: PreTrainedModel) -> None:
    """Makes the layers of `model` take the argument `pieces` of its forward pass; see `attend`."""
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)


def attend(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    *,
    pieces: Sequence[Piece] | Grid,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """Returns (1, tokens, heads, width). Each token sees the earlier tokens of its row, and itself.

    Args:
        query: (1, heads, tokens, width).
        key: (1, key heads, tokens, width), as `value`. Each serves heads / key heads query heads that follow each
            other.
        pieces: what the sequence is made of, in order; rows are computed one after the other. All at once for a `Grid`.
        scaling: factor of the scores; 1 / sqrt(width) if None.
        sliding_window: number of latest tokens that a token sees, itself included; all if None.
    """
    if isinstance(pieces, Grid):
        return _together(query, key, value, pieces, scaling, sliding_window), None
    lengths = [piece.length for piece in pieces]
    queries, keys, values = (whole.split(lengths, dim=2) for whole in (query, key, value))
    starts = {piece.after for piece in pieces}
    attended = []
    for place, piece in enumerate(pieces):
        if place in starts:
            # A copy: autograd would keep the whole sequence for a view, beside the rows that are put together below.
            q, k, v = (of[place].clone() for of in (queries, keys, values))
            row = _row(q, k, v, scaling, sliding_window)
        elif piece.after is None:
            row = _row(queries[place], keys[place], values[place], scaling, sliding_window)
        else:
            # The start attends once more with each row: so causal kernels do without a mask, and it is short.
            q, k, v = (torch.cat([of[piece.after], of[place]], dim=2) for of in (queries, keys, values))
            row = _row(q, k, v, scaling, sliding_window)[:, :, lengths[piece.after] :]
        attended.append(row.transpose(1, 2))
    return torch.cat(attended, dim=1), None


def _together(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, grid: Grid, scaling: float | None, window: int | None
) -> torch.Tensor:
    spread = [
        whole.squeeze(0).index_select(1, grid.places).unflatten(1, (grid.rows, -1)).transpose(0, 1)
        for whole in (query, key, value)
    ]
    rows = _row(spread[0], spread[1], spread[2], scaling, window).transpose(1, 2)
    return rows.flatten(0, 1).index_select(0, grid.back)[None]


def _row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, window: int | None
) -> torch.Tensor:
    length, per_key = query.shape[2], query.shape[1] // key.shape[1]
    seen = None
    if window is not None and length > window:
        place = torch.arange(length, device=query.device)
        distance = place[:, None] - place[None, :]
        seen = (distance >= 0) & (distance < window)
    if per_key > 1 and (seen is not None or not takes_fewer_keys(query.device.type, query.dtype)):
        key, value = key.repeat_interleave(per_key, dim=1), value.repeat_interleave(per_key, dim=1)
        per_key = 1
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, is_causal=seen is None, scale=scaling, enable_gqa=per_key > 1
    )


def takes_fewer_keys(device: str, dtype: torch.dtype) -> bool:
    """Tells whether a kernel that stores no scores of token pairs takes fewer key heads than query heads, unmasked.

    On GPUs flash attention alone does, and only in 16 bits. In float32 PyTorch would use the kernel that stores all
    scores (torch.nn.functional.scaled_dot_product_attention, PyTorch 2: "only for Flash_attention and math kernel").
    """
    return device != "cuda" or dtype.itemsize == 2
