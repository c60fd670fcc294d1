"""Lays the rows of a pass out as tensors: padded for models of transformers and PEFT, or end to end.

Rows of one adapter often start with the same tokens: a chat template and its system message. Under causal attention
these tokens get the same activations in every row. So where rows lie end to end, a start that all rows of a segment
share is there only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from trainables.data.dataset import TokenRow
from trainables.packing.engine import Segment
from trainables.packing.pass_limits import LEAST_SHARED


class PaddedBatch(NamedTuple):
    """Rows padded on the right. With causal attention this needs no mask, so that the fast kernels can be used."""

    ids: torch.Tensor
    """(rows, length)."""
    keep: torch.Tensor
    """(rows, length), true at the positions that predict a labelled token."""
    answers: torch.Tensor
    """(labels,): the labelled tokens, row after row."""


def pad(rows: Sequence[TokenRow]) -> PaddedBatch:
    """Returns the rows as tensors on the CPU."""
    length = max(len(row.ids) for row in rows)
    ids_BT = torch.zeros((len(rows), length), dtype=torch.long)
    keep_BT = torch.zeros((len(rows), length), dtype=torch.bool)
    for place, row in enumerate(rows):
        ids_BT[place, : len(row.ids)] = torch.from_numpy(row.ids)
        keep_BT[place, : len(row.ids) - 1] = torch.from_numpy(row.labelled[1:])
    return PaddedBatch(ids_BT, keep_BT, torch.cat([torch.from_numpy(row.ids[row.labelled]) for row in rows]).long())


def padded_losses(model: Any, batch: PaddedBatch, device: torch.device, **before: Any) -> torch.Tensor:
    """Passes a batch through a model of transformers or PEFT, whose head computes only the positions that count.

    Args:
        model: a model of transformers, with or without an adapter.
        before: the model's own arguments for the tokens before each row; none if rows are whole.

    Returns:
        The negative log-likelihood of each labelled token, row after row: (labels,), float32.
    """
    keep_BT = batch.keep.to(device)

    def keep_labelled(_head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """(rows, length, width) to (labels, width)."""
        return inputs[0][keep_BT], *inputs[1:]

    hook = model.get_output_embeddings().register_forward_pre_hook(keep_labelled)
    try:
        logits_NV = model(input_ids=batch.ids.to(device), **({"use_cache": False} | before)).logits
    finally:
        hook.remove()
    return functional.cross_entropy(logits_NV.float(), batch.answers.to(device), reduction="none")


class Piece(NamedTuple):
    """Consecutive tokens of the sequence: a row, a shared start, or the rest of a row."""

    length: int
    after: int | None = None
    """Place of the piece with the row's shared start, for the rest of a row; else None."""


@dataclass(frozen=True)
class Span:
    """The tokens of one segment in the sequence."""

    segment: Segment
    start: int
    stop: int
    places: torch.Tensor | None
    """(stop - start,): the place of each token in the segment's rows, padded to the longest row and laid end to end.
    None for a segment without dropout, whose rows may share a start."""


@dataclass(frozen=True)
class FlatBatch:
    """All rows of a pass as one sequence, without tokens at the end of rows that predict no labelled token."""

    ids: torch.Tensor
    """(1, tokens)."""
    positions: torch.Tensor
    """(1, tokens): the place of each token in its row."""
    pieces: tuple[Piece, ...]
    """The parts of the sequence, in order: rows, or shared starts and the rests of their rows."""
    keep: torch.Tensor
    """(labels,): places of the tokens that predict a labelled token."""
    answers: torch.Tensor
    """(labels,): the labelled tokens, row after row."""
    spans: tuple[Span, ...]
    """One per segment, in order."""


class _Laid(NamedTuple):
    ids: list[np.ndarray]
    positions: list[np.ndarray]
    pieces: list[Piece]
    keep: list[np.ndarray]


def flatten(segments: Sequence[Segment], device: torch.device) -> FlatBatch:
    """Returns the rows of all segments as one sequence on `device`.

    A start that all rows of a segment share is there once if the segment has no dropout, which drops other entries in
    each row.
    """
    laid, pieces = [], 0
    for segment in segments:
        laid.append(_lay(segment, pieces, LEAST_SHARED[device.type]))
        pieces += len(laid[-1].pieces)
    bounds = (0, *accumulate(sum(piece.length for piece in each.pieces) for each in laid))
    spans = [
        Span(segment, start, stop, None if segment.dropout is None else _tensor(_places(segment), device))
        for segment, (start, stop) in zip(segments, pairwise(bounds), strict=True)
    ]
    return FlatBatch(
        ids=_tensor([ids for each in laid for ids in each.ids], device)[None],
        positions=_tensor([positions for each in laid for positions in each.positions], device)[None],
        pieces=tuple(piece for each in laid for piece in each.pieces),
        keep=_tensor([keep + span.start for each, span in zip(laid, spans, strict=True) for keep in each.keep], device),
        answers=_tensor([row.ids[row.labelled] for segment in segments for row in segment.rows], device),
        spans=tuple(spans),
    )


def _lay(segment: Segment, first: int, least: int) -> _Laid:
    """Lays the rows of a segment end to end, its first piece at place `first`. `keep` counts from its first token."""
    used = [_used(row) for row in segment.rows]
    shared = _shared(segment.rows, used) if segment.dropout is None else 0
    if shared < least:
        shared = 0
    start = segment.rows[0].ids[:shared]
    laid = _Laid([start], [np.arange(shared)], [Piece(shared)] if shared else [], [])
    begin = shared
    for row, count in zip(segment.rows, used, strict=True):
        laid.ids.append(row.ids[shared:count])
        laid.positions.append(np.arange(shared, count))
        laid.pieces.append(Piece(count - shared, first if shared else None))
        before = np.flatnonzero(row.labelled[1:])
        laid.keep.append(np.where(before < shared, before, before - shared + begin))
        begin += count - shared
    return laid


def _used(row: TokenRow) -> int:
    """Returns the number of tokens before the last labelled one. Later tokens change no loss under causal attention."""
    return int(np.flatnonzero(row.labelled)[-1])


def _shared(rows: Sequence[TokenRow], used: Sequence[int]) -> int:
    """Counts the tokens with which all rows start. Each row keeps at least one token of its own."""
    shared = min(used) - 1 if len(rows) > 1 else 0
    for row in rows[1:]:
        (others,) = np.nonzero(row.ids[:shared] != rows[0].ids[:shared])
        shared = int(others[0]) if len(others) else shared
    return shared


def _places(segment: Segment) -> list[np.ndarray]:
    return [np.arange(_used(row)) + place * segment.longest for place, row in enumerate(segment.rows)]


def _tensor(parts: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)
