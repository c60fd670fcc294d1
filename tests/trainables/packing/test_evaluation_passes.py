"""Trials that are due together share evaluation passes, up to a number of tokens, and have the same numbers alone."""

from __future__ import annotations

import packs
import pytest

from trainables.contract import Evaluation, Opened
from trainables.packing import batches
from trainables.packing.adapter_pack import AdapterPack

TRIALS = [
    packs.spec(seed=seed, r=r, target_modules=modules, lora_dropout=0.1 * seed)
    for seed, (r, modules) in enumerate([(2, "all-linear"), (8, "mlp"), (4, "attention-qv"), (16, "attention")])
]
# Single precision keeps about 7 digits; other shapes of the same sums differ in the last one. A row has 15 labels.
FP32 = 1e-5


@pytest.fixture(params=packs.ENGINES, ids=lambda engine: engine.__name__)
def pack(request, monkeypatch) -> AdapterPack:
    monkeypatch.setattr(packs, "ENGINE", request.param)
    made = packs.pack()
    for slot, trial in enumerate(TRIALS):
        assert isinstance(made.open(slot, trial), Opened)
    packs.losses(made, 0, 3, (1, 2, 3))
    return made


@pytest.fixture
def passes(pack, monkeypatch) -> list[list[int | None]]:
    """The slots of each pass, as they come."""
    found: list[list[int | None]] = []
    packs.before_passes(monkeypatch, lambda engine, segments: found.append([segment.slot for segment in segments]))
    return found


def evaluated(pack: AdapterPack, slots: list[int]) -> list[tuple[float, ...]]:
    results = pack.evaluate(slots)
    assert all(isinstance(result, Evaluation) for result in results.values())
    return [results[slot].row_losses for slot in slots]


@pytest.mark.parametrize(("slots_of_pass", "expected"), [
    (0, [[0], [1], [2], [3]]), (1, [[0], [1], [2], [3]]), (3, [[0, 1, 2], [3]]), (9, [[0, 1, 2, 3]]),
])  # fmt: skip
def test_slots_share_passes_up_to_a_number_of_tokens(pack, passes, monkeypatch, slots_of_pass, expected):
    alone = [evaluated(pack, [slot])[0] for slot in range(4)]
    rows = [pack._data.eval.row(place) for place in range(len(pack._data.eval))]
    pack._eval_chunks = batches.chunks(rows)  # All rows in one pass of each slot.
    padded = len(rows) * max(len(row.ids) for row in rows)
    monkeypatch.setitem(batches.SHARED_TOKENS, "cpu", int(padded * (slots_of_pass + 0.5)))
    passes.clear()
    found = evaluated(pack, [0, 1, 2, 3])
    assert sorted(passes) == expected  # Some run at the same time.
    for shared, own in zip(found, alone, strict=True):
        assert shared == pytest.approx(own, abs=15 * FP32)


def test_a_trial_that_has_a_pass_for_itself_has_the_very_same_numbers_beside_others(pack, monkeypatch):
    monkeypatch.setitem(batches.SHARED_TOKENS, "cpu", 1)
    assert evaluated(pack, [0, 1, 2, 3]) == [evaluated(pack, [slot])[0] for slot in range(4)]
