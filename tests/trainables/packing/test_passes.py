"""Which rows and trials share a pass, passes that run at the same time, and equal numbers however trials share them."""

from __future__ import annotations

import threading

import numpy as np
import packs
import pytest
import torch

from trainables.contract import Evaluation, Opened
from trainables.data.dataset import TokenRow
from trainables.packing import pass_limits
from trainables.packing.adapter_pack import AdapterPack
from trainables.packing.passes import PassThreads, evaluation_passes

DEADLINE = 60.0
TRIALS = [
    packs.spec(seed=seed, r=r, target_modules=modules, lora_dropout=0.1 * seed)
    for seed, (r, modules) in enumerate([(2, "all-linear"), (8, "mlp"), (4, "attention-qv"), (16, "attention")])
]


@pytest.fixture
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


two_threads = pytest.mark.parametrize("threads", [2], indirect=True)


@two_threads
def test_two_calls_run_at_the_same_time_with_half_of_the_threads_each(threads):
    together = threading.Barrier(2, timeout=DEADLINE)

    def work(item):
        together.wait()
        return item, torch.get_num_threads()

    workers = PassThreads(2)
    assert workers.run(work, "abcd") == [("a", 1), ("b", 1), ("c", 1), ("d", 1)]
    # A single call has all threads after others had half, also in a thread that is new to torch.
    found = []
    thread = threading.Thread(target=lambda: found.extend(workers.run(lambda _: torch.get_num_threads(), "a")))
    thread.start()
    thread.join(DEADLINE)
    assert found == workers.run(lambda _: torch.get_num_threads(), "a") == [2]


@two_threads
def test_an_error_is_told_once_no_call_runs_any_more(threads):
    failed, done = threading.Event(), []

    def work(item):
        if item == "a":
            failed.set()
            raise KeyError(item)
        assert failed.wait(DEADLINE)
        done.append(item)

    with pytest.raises(KeyError):
        PassThreads(2).run(work, "abc")
    assert done == ["b", "c"]


@pytest.mark.parametrize("threads", [1], indirect=True)
def test_with_one_thread_calls_run_in_the_callers(threads):
    assert set(PassThreads(2).run(lambda _: threading.get_ident(), "ab")) == {threading.get_ident()}


def row(length: int) -> TokenRow:
    return TokenRow(np.zeros(length, dtype=np.int32), np.ones(length, dtype=bool))


@pytest.mark.parametrize(
    ("parallel", "lengths", "expected"),
    [
        (2, [], []),
        (2, [100] * 5, [2, 3]),
        (2, [200, 100, 100], [1, 2]),
        (2, [3000, 10, 10], [1, 2]),
        (2, [1024] * 5, [1, 1, 2, 1]),
        (2, [200] * 24, [6, 6, 6, 6]),
        (2, [1500, 1500, 1500], [1, 1, 1]),
        (1, [700, 3, 500, 700, 900, 12, 2100], [1, 2, 2, 2]),
    ],
)
def test_evaluation_rows_are_cut_into_even_passes_that_are_not_too_long(parallel, lengths, expected):
    rows = [row(length) for length in lengths]
    cut = evaluation_passes(rows, parallel)
    assert [len(places) for places, _ in cut] == expected
    assert sorted(place for places, _ in cut for place in places) == list(range(len(rows)))
    assert all(len(own) == 1 or len(own) * len(own[0].ids) <= pass_limits.EVALUATION_TOKENS for _, own in cut)


def test_many_rows_that_are_hard_to_even_out_make_no_more_than_a_tenth_more_passes():
    rows = [row(length) for length in (*range(900, 1100), *range(900, 1100))]
    assert len(evaluation_passes(rows, parallel=2)) <= 1.1 * len(evaluation_passes(rows)) + 2


def evaluated(pack: AdapterPack, slots: list[int]) -> list[tuple[float, ...]]:
    results = pack.evaluate(slots)
    assert all(isinstance(result, Evaluation) for result in results.values())
    return [results[slot].row_losses for slot in slots]


def test_slots_share_evaluation_passes_up_to_a_number_of_tokens(monkeypatch):
    monkeypatch.setattr(packs, "ENGINE", packs.FlatEngine)
    monkeypatch.setitem(pass_limits.PARALLEL_PASSES, "cpu", 1)  # All rows in one pass of each slot.
    pack = packs.pack()
    for slot, trial in enumerate(TRIALS):
        assert isinstance(pack.open(slot, trial), Opened)
    packs.losses(pack, 0, 3, (1, 2, 3))
    alone = [evaluated(pack, [slot])[0] for slot in range(4)]
    passes: list[list[int | None]] = []
    packs.before_passes(monkeypatch, lambda engine, segments: passes.append([segment.slot for segment in segments]))
    rows = packs.rows().eval
    padded = len(rows) * max(len(rows.row(place).ids) for place in range(len(rows)))
    ones = [[0], [1], [2], [3]]
    for most_slots, expected in ((0, ones), (1, ones), (3, [[0, 1, 2], [3]]), (9, [[0, 1, 2, 3]])):
        monkeypatch.setitem(pass_limits.SHARED_TOKENS, "cpu", int(padded * (most_slots + 0.5)))
        passes.clear()
        found = evaluated(pack, [0, 1, 2, 3])
        assert passes == expected
        # A trial that has a pass for itself has the very same numbers beside others.
        near = 15 * packs.FP32 if most_slots > 1 else 0.0  # a row has 15 labels
        for shared, own in zip(found, alone, strict=True):
            assert shared == pytest.approx(own, rel=0, abs=near)
