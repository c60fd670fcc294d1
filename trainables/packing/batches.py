"""Groups rows into passes of a model, pads them, marks the positions that count, and computes their losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from trainables.data.dataset import TokenRow
from trainables.isolation import SlotOrBase
from trainables.packing.engine import Engine, Segment
from trainables.packing.pass_memory import EVALUATION_TOKENS, SHARED_TOKENS

_MUCH_MORE = 1.1
"""So many times as many passes are too many to make them even."""


class Batch(NamedTuple):
    """Rows padded on the right. With causal attention this needs no mask, so that the fast kernels can be used."""

    ids: torch.Tensor
    """(rows, length)."""
    keep: torch.Tensor
    """(rows, length), true at the positions from which a labelled token is predicted."""
    answers: torch.Tensor
    """(labels,): the labelled tokens, row after row."""


def stack(rows: Sequence[TokenRow]) -> Batch:
    """Returns the rows as tensors on the CPU."""
    length = max(len(row.ids) for row in rows)
    ids_BT = torch.zeros((len(rows), length), dtype=torch.long)
    keep_BT = torch.zeros((len(rows), length), dtype=torch.bool)
    for place, row in enumerate(rows):
        ids_BT[place, : len(row.ids)] = torch.from_numpy(row.ids)
        keep_BT[place, : len(row.ids) - 1] = torch.from_numpy(row.labelled[1:])
    return Batch(ids_BT, keep_BT, torch.cat([torch.from_numpy(row.ids[row.labelled]) for row in rows]).long())


def token_losses(model: Any, batch: Batch, device: torch.device) -> torch.Tensor:
    """Passes a batch through a model of transformers or PEFT, whose head computes only the positions that count.

    Returns:
        The negative log-likelihood of each labelled token, row after row: (labels,), float32.
    """
    keep_BT = batch.keep.to(device)

    def keep_labelled(_head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """(rows, length, width) to (labels, width)."""
        return inputs[0][keep_BT], *inputs[1:]

    hook = model.get_output_embeddings().register_forward_pre_hook(keep_labelled)
    try:
        logits_NV = model(input_ids=batch.ids.to(device), use_cache=False).logits
    finally:
        hook.remove()
    return functional.cross_entropy(logits_NV.float(), batch.answers.to(device), reduction="none")


Chunk = tuple[list[int], list[TokenRow]]
"""Places of rows, and the rows."""


def chunks(rows: Sequence[TokenRow], at_once: int = 1) -> list[Chunk]:
    """Groups evaluation rows of similar length into passes of at most EVALUATION_TOKENS tokens, padding included.

    Where several passes run at the same time, their number is a multiple of `at_once` and each has about as many
    tokens, unless that takes many more passes. A row that is longer has a pass for itself.
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), i))
    fewest: list[Chunk] = []
    for place in order:
        if not fewest or not _fits([*fewest[-1][1], rows[place]]):
            fewest.append(([], []))
        fewest[-1][0].append(place)
        fewest[-1][1].append(rows[place])
    if at_once == 1:
        return fewest
    count = at_once * math.ceil(len(fewest) / at_once)
    while count < _MUCH_MORE * len(fewest) + at_once:
        even = _even(rows, order, count)
        if all(_fits(own) for _, own in even):
            return even
        count += at_once * math.ceil(len(fewest) / 100)
    return fewest


def _fits(rows: Sequence[TokenRow]) -> bool:
    """Tells whether rows, the longest first, may be one evaluation pass."""
    return len(rows) == 1 or len(rows) * len(rows[0].ids) <= EVALUATION_TOKENS


def _even(rows: Sequence[TokenRow], order: Sequence[int], count: int) -> list[Chunk]:
    """Cuts the rows, in this order, into at most `count` passes with about as many tokens each."""
    total, before = sum(len(row.ids) for row in rows), 0
    even: list[Chunk] = [([], []) for _ in range(count)]
    for place in order:
        own = len(rows[place].ids)
        places, chosen = even[(2 * before + own) * count // (2 * total)]
        places.append(place)
        chosen.append(rows[place])
        before += own
    return [each for each in even if each[0]]


def sharing(slots: Sequence[SlotOrBase], rows: Sequence[TokenRow], device: torch.device) -> list[Sequence[SlotOrBase]]:
    """Groups slots that are evaluated on `rows` into passes of at most SHARED_TOKENS tokens, and at least one slot."""
    tokens = len(rows) * max(len(row.ids) for row in rows)
    count = max(1, SHARED_TOKENS[device.type] // tokens)
    return [slots[first : first + count] for first in range(0, len(slots), count)]


def passes(engine: Engine, segments: Sequence[Segment], most_tokens: int) -> list[list[Segment]]:
    """Groups the segments of a step into passes of at least one segment.

    Passes that run at the same time get about as many tokens each, and at most `most_tokens` together; but a segment
    that has more is never cut.
    """
    parts: list[list[Segment]] = [[] for _ in range(engine.at_once)]
    for segment in segments if len(parts) == 1 else sorted(segments, key=lambda each: -each.tokens):
        min(parts, key=lambda part: sum(each.tokens for each in part)).append(segment)
    groups: list[list[Segment]] = []
    for part in parts:
        first = len(groups)
        for segment in part:
            joined = [*groups[-1], segment] if len(groups) > first else []
            if joined and engine.pass_tokens(joined) <= most_tokens // engine.at_once:
                groups[-1] = joined
            else:
                groups.append([segment])
    return groups
