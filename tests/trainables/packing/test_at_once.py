"""Passes that run at the same time: as many as asked, with their own threads, and none after an error was told."""

from __future__ import annotations

import threading

import pytest
import torch

from trainables.data.dataset import TokenRow
from trainables.packing import batches
from trainables.packing.at_once import AtOnce

DEADLINE = 60.0


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_two_calls_run_at_the_same_time_with_half_of_the_threads_each():
    together = threading.Barrier(2, timeout=DEADLINE)

    def work(item):
        together.wait()
        return item, torch.get_num_threads()

    assert AtOnce(2).run(work, "abcd") == [("a", 1), ("b", 1), ("c", 1), ("d", 1)]


@pytest.mark.usefixtures("two_threads")
def test_a_single_call_has_all_threads_even_after_others_had_half():
    workers = AtOnce(2)
    workers.run(lambda item: item, "ab")
    found = []

    def elsewhere():
        found.extend(workers.run(lambda _: torch.get_num_threads(), "a"))

    elsewhere()
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(DEADLINE)
    assert found == [2, 2]


@pytest.mark.usefixtures("two_threads")
def test_an_error_is_told_once_no_call_runs_any_more():
    failed, done = threading.Event(), []

    def work(item):
        if item == "a":
            failed.set()
            raise KeyError(item)
        assert failed.wait(DEADLINE)
        done.append(item)

    with pytest.raises(KeyError):
        AtOnce(2).run(work, "abc")
    assert done == ["b", "c"]


def test_with_one_thread_calls_run_in_the_callers():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert set(AtOnce(2).run(lambda _: threading.get_ident(), "ab")) == {threading.get_ident()}
    finally:
        torch.set_num_threads(before)


def row(length: int) -> TokenRow:
    import numpy as np

    return TokenRow(np.zeros(length, dtype=np.int32), np.ones(length, dtype=bool))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([100] * 6, [3, 3]),
        ([100] * 5, [2, 3]),
        ([200, 100, 100], [1, 2]),
        ([3000, 10, 10], [1, 2]),
        ([1024] * 5, [1, 1, 2, 1]),
        ([200] * 16, [8, 8]),
        ([200] * 24, [6, 6, 6, 6]),
        ([1500, 1500, 1500], [1, 1, 1]),
    ],
)  # fmt: skip
def test_evaluation_rows_are_cut_into_even_passes(lengths, expected):
    rows = [row(length) for length in lengths]
    cut = batches.chunks(rows, at_once=2)
    assert [len(places) for places, _ in cut] == expected
    assert sorted(place for places, _ in cut for place in places) == list(range(len(rows)))
    assert all(len(own) == 1 or len(own) * len(own[0].ids) <= batches.EVALUATION_TOKENS for _, own in cut)


def test_many_rows_that_are_hard_to_even_out_make_no_more_than_a_tenth_more_passes():
    rows = [row(length) for length in (*range(900, 1100), *range(900, 1100))]
    assert len(batches.chunks(rows, at_once=2)) <= 1.1 * len(batches.chunks(rows)) + 2
