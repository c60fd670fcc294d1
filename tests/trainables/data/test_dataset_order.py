from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables.data import dataset

SEEDS = st.integers(0, 2**64)
SIZES = st.integers(1, 50)


@given(SEEDS, SIZES, st.integers(0, 1000))
def test_every_epoch_visits_each_row_once(seed: int, size: int, epoch: int) -> None:
    assert sorted(dataset.batch_rows(seed, size, epoch * size, size)) == list(range(size))
    assert sorted(dataset.order(seed, size, epoch).tolist()) == list(range(size))


@given(SEEDS, SIZES, st.integers(0, 200), st.integers(0, 120), st.integers(0, 120))
def test_a_batch_is_a_slice_of_the_endless_order(seed: int, size: int, first: int, count: int, cut: int) -> None:
    whole = dataset.batch_rows(seed, size, first, count)
    cut = min(cut, count)
    assert len(whole) == count
    parts = [dataset.batch_rows(seed, size, first, cut), dataset.batch_rows(seed, size, first + cut, count - cut)]
    assert parts[0] + parts[1] == whole
    epochs = [dataset.order(seed, size, epoch) for epoch in range((first + count) // size + 1)]
    assert whole == np.concatenate(epochs)[first : first + count].tolist()


def test_seed_and_epoch_give_orders_of_their_own() -> None:
    pairs = [(seed, epoch) for seed in (0, 1, 2**32, 2**33) for epoch in range(3)]
    assert len({tuple(dataset.order(seed, 30, epoch)) for seed, epoch in pairs}) == len(pairs)


def test_order_is_the_same_on_every_machine_and_numpy() -> None:
    # A numpy that draws otherwise would train every trial of a resumed sweep on other rows than before.
    assert dataset.batch_rows(7, 8, 0, 16) == [6, 1, 5, 3, 7, 4, 2, 0, 3, 1, 7, 6, 0, 4, 5, 2]


def test_order_cannot_be_changed_for_those_who_ask_later() -> None:
    with pytest.raises(ValueError, match="read-only"):
        dataset.order(0, 4, 0)[0] = 1
