"""Puts the rows of a pass behind one another in one sequence without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch

from trainables.data.dataset import TokenRow
from trainables.packing.engine import Segment


@dataclass(frozen=True)
class Span:
    """The tokens of one segment in the sequence."""

    segment: Segment
    start: int
    stop: int
    places: torch.Tensor
    """(stop - start,): the place of each token in the segment's rows, padded to the longest and laid end to end."""


@dataclass(frozen=True)
class FlatBatch:
    """All rows of a pass as one sequence. Tokens that nothing is predicted from, at the end of rows, are left out."""

    ids: torch.Tensor
    """(1, tokens)."""
    positions: torch.Tensor
    """(1, tokens): the place of each token in its row."""
    bounds: tuple[int, ...]
    """Where each row starts, and where the last one ends."""
    keep: torch.Tensor
    """(labels,): the tokens from which a labelled token is predicted."""
    answers: torch.Tensor
    """(labels,): the labelled tokens, row after row."""
    spans: tuple[Span, ...]
    """One per segment, in order."""


def flatten(segments: Sequence[Segment], device: torch.device) -> FlatBatch:
    """Returns the rows of all segments as one sequence on `device`."""
    rows = [row for segment in segments for row in segment.rows]
    used = [_used(row) for row in rows]
    bounds = (0, *accumulate(used))
    keep = [np.flatnonzero(row.labelled[1:]) + start for row, start in zip(rows, bounds, strict=False)]
    return FlatBatch(
        ids=_tensor([row.ids[:count] for row, count in zip(rows, used, strict=True)], device)[None],
        positions=_tensor([np.arange(count) for count in used], device)[None],
        bounds=bounds,
        keep=_tensor(keep, device),
        answers=_tensor([row.ids[row.labelled] for row in rows], device),
        spans=tuple(_spans(segments, device)),
    )


def _used(row: TokenRow) -> int:
    """Returns the number of tokens before the last labelled one. Later tokens change no loss under causal attention."""
    return int(np.flatnonzero(row.labelled)[-1])


def _spans(segments: Sequence[Segment], device: torch.device) -> list[Span]:
    counts = [[_used(row) for row in segment.rows] for segment in segments]
    bounds = (0, *accumulate(map(sum, counts)))
    return [
        Span(
            segment,
            start,
            stop,
            _tensor([np.arange(count) + place * segment.longest for place, count in enumerate(used)], device),
        )
        for segment, used, (start, stop) in zip(segments, counts, pairwise(bounds), strict=True)
    ]


def _tensor(parts: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)
