"""Evaluations on parts of the rows: the losses of their rows, brought to all rows by the base."""

from __future__ import annotations

import packs
import pytest

from trainables.contract import Evaluation, RowsDue
from trainables.data import dataset
from trainables.objective import EVAL_LOSS
from trainables.packing.adapter_pack import AdapterPack
from trainables.packing.training_loss import Loss

ROWS = packs.rows(24, 20)
ALL = RowsDue()


def opened(**more) -> AdapterPack:
    """A pack with three adapters that have trained for three steps."""
    pack = AdapterPack(packs.ENGINE(packs.base()), ROWS, **more)
    for slot in range(3):
        pack.open(slot, packs.spec(seed=slot, learning_rate=0.02 * (slot + 1)))
    for _ in range(3):
        pack.step([0, 1, 2])
    return pack


def first(size: int) -> list[int]:
    return sorted(dataset.nested_order(ROWS.eval)[:size])


def mean(found: Evaluation, places: list[int]) -> float:
    return sum(found.row_losses[p] for p in places) / sum(found.row_tokens[p] for p in places)


def test_a_part_has_the_losses_of_its_rows_and_metrics_brought_to_all_rows():
    pack = opened()
    whole = {slot: each for slot, each in pack.evaluate([0, 1, 2]).items() if isinstance(each, Evaluation)}
    base = pack.evaluate_base()
    due = {0: RowsDue(7), 1: RowsDue(13, of_best=7), 2: RowsDue(None, of_rung=7)}
    found = pack.evaluate_parts([0, 1, 2], (), due)
    assert isinstance(base, Evaluation)
    for slot, size in ((0, 7), (1, 13)):
        places = first(size)
        own, full = found[slot], whole[slot]
        assert own.places == tuple(places)
        assert own.row_losses == pytest.approx([full.row_losses[place] for place in places], abs=packs.FP32 * 30)
        assert own.raw[EVAL_LOSS] == pytest.approx(mean(full, places), abs=packs.FP32)
        brought = own.raw[EVAL_LOSS] + base.loss - mean(base, places)
        assert own.loss == pytest.approx(brought, abs=packs.FP32)
    places = first(7)
    assert found[1].beside(7)[EVAL_LOSS] == pytest.approx(
        mean(whole[1], places) + base.loss - mean(base, places), abs=packs.FP32
    )
    assert (found[2].loss, found[2].places, found[2].raw) == (pytest.approx(whole[2].loss, abs=packs.FP32), (), {})
    assert found[2].beside(7)[EVAL_LOSS] == pytest.approx(
        mean(whole[2], places) + base.loss - mean(base, places), abs=packs.FP32
    )


def test_a_part_of_all_rows_is_the_evaluation_on_all_rows():
    pack = opened()
    whole = pack.evaluate([0])[0]
    for due in (ALL, RowsDue(20), RowsDue(99, of_best=99)):
        assert pack.evaluate_parts([0], (), {0: due})[0] == whole


def test_examples_of_several_rows_are_evaluated_whole():
    class Paired(Loss):
        rows_per_example = 2

    pack = opened(loss=Paired())
    assert pack.evaluate_parts([0], (), {0: RowsDue(7)})[0].places == ()


def test_an_evaluation_on_some_rows_is_one_as_if_there_were_no_others():
    found = Evaluation(
        metrics={EVAL_LOSS: 1.0},
        row_losses=(1.0, 2.0, 3.0),
        row_tokens=(1, 2, 3),
        row_groups=(0, 0, 1),
        row_values={"eval_row_loss": (1.0, 1.0, 1.0), "exact_match": (1.0, 0.0)},
        places=(2, 5, 9),
        row_places=(5, 9),
    )
    own = found.on({5, 9, 11})
    assert (own.row_losses, own.row_tokens, own.row_groups, own.places) == ((2.0, 3.0), (2, 3), (0, 1), ())
    assert own.row_values == {"eval_row_loss": (1.0, 1.0), "exact_match": (1.0, 0.0)}
    assert found.places_of("exact_match") == (5, 9)
    assert found.places_of("eval_row_loss") == (2, 5, 9)
    assert Evaluation.of_document(found.document()) == found
