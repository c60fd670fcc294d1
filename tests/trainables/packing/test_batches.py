"""Which tokens a pass of the engine without padding holds, and where its labels and its shared starts lie."""

from __future__ import annotations

import numpy as np
import packs
import pytest
import torch

from trainables.data.dataset import TokenRow
from trainables.packing.batches import FlatBatch, Piece, flatten
from trainables.packing.engine import DropoutKey, Segment
from trainables.packing.pass_limits import LEAST_SHARED

CPU = torch.device("cpu")
ROWS = packs.train_rows(0, 1, 2)


def rows_of(batch: FlatBatch) -> list[list[int]]:
    """The tokens that each row sees, put together again from the pieces."""
    lengths = [piece.length for piece in batch.pieces]
    pieces = [part.tolist() for part in batch.ids[0].split(lengths)]
    starts = {piece.after for piece in batch.pieces}
    return [
        (pieces[piece.after] if piece.after is not None else []) + own
        for place, (piece, own) in enumerate(zip(batch.pieces, pieces, strict=True))
        if place not in starts
    ]


def used(row: TokenRow) -> list[int]:
    return row.ids[: np.flatnonzero(row.labelled)[-1]].tolist()


def test_tokens_that_nothing_is_predicted_from_are_left_out():
    row = ROWS[0]
    early = row._replace(labelled=np.arange(len(row.ids)) == 2)
    key = DropoutKey(1, 1, 0)
    batch = flatten([Segment(0, [early, row], key), Segment(None, [early])], CPU)
    last = int(np.flatnonzero(row.labelled)[-1])
    assert batch.pieces == (Piece(2), Piece(last), Piece(2))
    assert batch.ids[0, :2].tolist() == row.ids[:2].tolist()
    assert batch.answers.tolist() == [row.ids[2], *row.ids[row.labelled], row.ids[2]]
    assert batch.keep.tolist() == [1, *(2 + place - 1 for place in np.flatnonzero(row.labelled)), 3 + last]
    assert [(span.start, span.stop) for span in batch.spans] == [(0, 2 + last), (2 + last, 4 + last)]
    assert batch.spans[0].places.tolist() == [0, 1, *(len(row.ids) + place for place in range(last))]
    assert batch.spans[1].places is None


def test_a_start_that_all_rows_of_a_segment_share_is_there_once():
    alike = [packs.starting_alike(row, 9) for row in ROWS]
    batch = flatten([Segment(None, ROWS[:1]), Segment(0, alike), Segment(1, alike[:2])], CPU)
    assert rows_of(batch) == [used(row) for row in (ROWS[0], *alike, *alike[:2])]
    assert [piece.after for piece in batch.pieces] == [None, None, 1, 1, 1, None, 5, 5]
    assert batch.ids.shape[1] == sum(len(used(row)) for row in (ROWS[0], *alike, *alike[:2])) - 2 * 9 - 9
    # Each label is predicted from the token before it, also where that is in the shared start.
    predicting = np.concatenate([row.ids[:-1][row.labelled[1:]] for row in (ROWS[0], *alike, *alike[:2])])
    assert batch.ids[0, batch.keep].tolist() == predicting.tolist()
    places = np.concatenate([np.flatnonzero(row.labelled[1:]) for row in (ROWS[0], *alike, *alike[:2])])
    assert batch.positions[0, batch.keep].tolist() == places.tolist()
    assert batch.spans[1].start == len(used(ROWS[0]))


def test_each_row_keeps_a_token_of_its_own():
    batch = flatten([Segment(None, [ROWS[0], ROWS[0]])], CPU)
    length = len(used(ROWS[0]))
    assert batch.pieces == (Piece(length - 1), Piece(1, 0), Piece(1, 0))
    assert rows_of(batch) == [used(ROWS[0])] * 2


@pytest.mark.parametrize(
    ("rows", "key"),
    [
        ([packs.starting_alike(row, LEAST_SHARED["cpu"] - 1) for row in ROWS], None),
        ([packs.starting_alike(row, 20) for row in ROWS], DropoutKey(1, 1, 0)),
        ([packs.starting_alike(ROWS[0], 20)], None),
    ],
    ids=["too short", "dropout", "one row"],
)
def test_other_rows_lie_end_to_end(rows, key):
    batch = flatten([Segment(0, rows, key)], CPU)
    assert all(piece.after is None for piece in batch.pieces)
    assert rows_of(batch) == [used(row) for row in rows]
