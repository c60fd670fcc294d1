"""Computes causal attention inside each row of a flat sequence, through transformers' interface for attention.

transformers builds no mask for an unknown attention function (masking_utils.py, _preprocess_mask_arguments, 5.24), so
no mask over all pairs of tokens is ever made.
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
    """The rows of a sequence side by side. A row's own last token pads it, so no row sees another's tokens."""

    rows: int
    places: torch.Tensor
    """(rows * longest,): the token at each place, row after row."""
    back: torch.Tensor
    """(tokens,): the place of each token. A token of a shared start has a place in each of its rows; any one counts."""


def grid(pieces: Sequence[Piece], device: torch.device) -> Grid:
    """Returns the rows of a sequence side by side.

    CUDA adds the gradients of a shared start in no fixed order, so a repeated pass may differ in the last digit.
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


class Cache:
    """The keys and values of rows so far, by layer, for passes with one more token of each row.

    The rows fill the first places. Zeros follow a row's last token, since a mask would hide a number, but not a NaN.
    """

    def __init__(self, rows: int, tokens: int) -> None:
        """Has places for `rows` rows of at most `tokens` tokens."""
        self.lengths: list[int] = []
        """Tokens of each row."""
        self._places = (rows, tokens)
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, layer: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns keys and values of a layer: (rows, key heads, tokens, width) each, with device and type of `like`."""
        if layer not in self._layers:
            rows, tokens = self._places
            shape = (rows, like.shape[1], tokens, like.shape[3])
            self._layers[layer] = (like.new_zeros(shape), like.new_zeros(shape))
        return self._layers[layer]

    def drop(self, row: int) -> None:
        """Takes a row out, and moves the last row to the free place."""
        used, last = max(self.lengths), len(self.lengths) - 1
        for of_layer in self._layers.values():
            for each in of_layer:
                each[row, :, :used] = each[last, :, :used]
                each[last, :, :used] = 0
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()


class Start(NamedTuple):
    """A sequence of new rows, whose keys and values are kept."""

    pieces: Sequence[Piece]
    cache: Cache


class Next(NamedTuple):
    """A sequence of one more token of each row."""

    cache: Cache
    lengths: torch.Tensor
    """(rows,): number of tokens of each row before the new one."""
    tokens: torch.Tensor
    """(rows,): the place of each row's token in the sequence."""


Pieces = Sequence[Piece] | Grid | Start | Next
"""The parts of a sequence; see `attend`."""


def use(model: PreTrainedModel) -> None:
    """Makes the layers of `model` take the argument `pieces` of its forward pass; see `attend`."""
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)


def attend(  # noqa: PLR0913 - transformers calls it so
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    *,
    pieces: Pieces,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """Returns (1, tokens, heads, width). Each token sees the earlier tokens of its row, and itself.

    Args:
        module: the layer's attention, whose `layer_idx` tells the layer.
        query: (1, heads, tokens, width).
        key: (1, key heads, tokens, width), as `value`. Each key head serves heads / key heads consecutive query heads.
        pieces: the parts of the sequence, in order. A `Grid` and a `Next` compute all rows at once, other forms one row
            after the other.
        scaling: factor of the scores; 1 / sqrt(width) if None.
        sliding_window: number of latest tokens that a token sees, itself included; all if None.
    """
    if isinstance(pieces, Grid):
        return _together(query, key, value, pieces, scaling, sliding_window), None
    if isinstance(pieces, Next):
        return _next(module.layer_idx, query, key, value, pieces, scaling, sliding_window), None
    if isinstance(pieces, Start):
        _keep(module.layer_idx, key, value, pieces)
        pieces = pieces.pieces
    lengths = [piece.length for piece in pieces]
    queries, keys, values = (whole.split(lengths, dim=2) for whole in (query, key, value))
    starts = {piece.after for piece in pieces}
    attended = []
    for place, piece in enumerate(pieces):
        if place in starts:
            # A copy: for a view, autograd would keep the whole sequence beside the rows that are joined below.
            q, k, v = (of[place].clone() for of in (queries, keys, values))
            row = _row(q, k, v, scaling, sliding_window)
        elif piece.after is None:
            row = _row(queries[place], keys[place], values[place], scaling, sliding_window)
        else:
            # The start, which is short, attends again with each row, so that causal kernels need no mask.
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


def _keep(layer: int, key: torch.Tensor, value: torch.Tensor, start: Start) -> None:
    """Adds the keys and values of new rows to the cache, after its other rows."""
    ends = [0, *accumulate(piece.length for piece in start.pieces)]
    shared = {piece.after for piece in start.pieces}
    rows = [(place, piece) for place, piece in enumerate(start.pieces) if place not in shared]
    for row, (place, piece) in enumerate(rows, len(start.cache.lengths)):
        for kept, whole in zip(start.cache.of(layer, key), (key, value), strict=True):
            parts = [place] if piece.after is None else [piece.after, place]
            tokens = torch.cat([whole[0, :, ends[part] : ends[part + 1]] for part in parts], dim=1)
            kept[row, :, : tokens.shape[1]] = tokens


def _next(  # noqa: PLR0913 - what attention depends on
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    step: Next,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    lengths, tokens = step.lengths.to(query.device), step.tokens.to(query.device)
    count, longest = len(lengths), max(step.cache.lengths) + 1
    rows = torch.arange(count, device=query.device)
    q, k, v = (whole[0].index_select(1, tokens).transpose(0, 1) for whole in (query, key, value))
    for kept, new in zip(step.cache.of(layer, key), (k, v), strict=True):
        kept[rows, :, lengths] = new
    keys, values = (kept[:count, :, :longest] for kept in step.cache.of(layer, key))
    behind = lengths[:, None] - torch.arange(longest, device=query.device)
    seen = (behind >= 0) if window is None else (behind >= 0) & (behind < window)
    # The query heads of a key head stand for as many tokens that see the same keys, so kernels need no copies of keys.
    attended = functional.scaled_dot_product_attention(
        q.unflatten(1, (key.shape[1], -1)), keys, values, attn_mask=seen[:, None, None], scale=scaling
    )
    back = torch.empty_like(tokens)
    back[tokens] = rows
    return attended.flatten(1, 2).index_select(0, back)[None]


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
    """Tells whether a kernel that stores no scores of token pairs accepts fewer key heads than query heads, unmasked.

    On GPUs only flash attention accepts them, and only in 16 bits. In float32 PyTorch would store all scores
    (torch.nn.functional.scaled_dot_product_attention, PyTorch 2: "only for Flash_attention and math kernel").
    """
    return device != "cuda" or dtype.itemsize == 2
