"""Groups rows into passes of a model, pads them, and marks the positions that count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch

from trainables.data.dataset import TokenRow
from trainables.packing.engine import Engine, Segment
from trainables.packing.pass_memory import EVALUATION_TOKENS, SHARED_TOKENS

Slot = TypeVar("Slot", int, None)


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


def chunks(rows: Sequence[TokenRow]) -> list[tuple[list[int], list[TokenRow]]]:
    """Groups evaluation rows of similar length into passes of at most EVALUATION_TOKENS tokens, padding included."""
    passes: list[tuple[list[int], list[TokenRow]]] = []
    for place in sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), i)):
        row = rows[place]
        if not passes or (len(passes[-1][1]) + 1) * len(passes[-1][1][0].ids) > EVALUATION_TOKENS:
            passes.append(([], []))
        passes[-1][0].append(place)
        passes[-1][1].append(row)
    return passes


def sharing(slots: Sequence[Slot], rows: Sequence[TokenRow], device: torch.device) -> list[Sequence[Slot]]:
    """Groups slots that are evaluated on `rows` into passes of at most SHARED_TOKENS tokens, and at least one slot."""
    tokens = len(rows) * max(len(row.ids) for row in rows)
    count = max(1, SHARED_TOKENS[device.type] // tokens)
    return [slots[first : first + count] for first in range(0, len(slots), count)]


def passes(engine: Engine, segments: Sequence[Segment], most_tokens: int) -> list[list[Segment]]:
    """Groups the segments of a step, in order, into passes of at most `most_tokens` tokens and at least one segment."""
    groups: list[list[Segment]] = []
    for segment in segments:
        if groups and engine.pass_tokens([*groups[-1], segment]) <= most_tokens:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return groups
