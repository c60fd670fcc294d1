"""The operators of a layer, which are kernels on a GPU."""

from functools import partial

import pytest

from benchmarks.operators import DEQUANTISED_GOAL, GOAL, IN_TURN_GOAL, packed, per_layer
from trainables.packing import work
from trainables.packing.flat_engine import FlatEngine
from trainables.packing.peft_engine import PeftEngine

GROUPED = partial(FlatEngine, grouped=True)


def test_grouped_adapters_take_no_more_operators_the_more_there_are():
    assert per_layer(packed(GROUPED, 2)) == per_layer(packed(GROUPED, 8)) <= DEQUANTISED_GOAL
    assert per_layer(packed(GROUPED, 8, quantised=True)) <= GOAL


def test_eight_adapters_in_turn_take_no_more_operators_than_they_may():
    assert GOAL < per_layer(packed(FlatEngine, 8, quantised=True)) <= IN_TURN_GOAL


@pytest.mark.parametrize(("name", "engine"), [("flat", FlatEngine), ("grouped", GROUPED), ("peft", PeftEngine)])
def test_a_plan_counts_the_operators_that_there_are(name, engine):
    told = work.OPERATORS[name]
    for slots in (1, 8):
        assert per_layer(packed(engine, slots)) == pytest.approx(told.of_pass + slots * told.of_slot)
    again = per_layer(packed(engine, 1, recomputing=True)) / sum(told)
    assert again == pytest.approx(1 + work.FORWARD, rel=0.05)
