"""The operators of a layer, which are kernels on a GPU."""

from functools import partial

from benchmarks.operators import DEQUANTISED_GOAL, GOAL, IN_TURN_GOAL, packed, per_layer
from trainables.packing.flat_engine import FlatEngine

GROUPED = partial(FlatEngine, grouped=True)


def test_grouped_adapters_take_no_more_operators_the_more_there_are():
    assert per_layer(packed(GROUPED, 2)) == per_layer(packed(GROUPED, 8)) <= DEQUANTISED_GOAL
    assert per_layer(packed(GROUPED, 8, quantised=True)) <= GOAL


def test_eight_adapters_in_turn_take_no_more_operators_than_they_may():
    assert GOAL < per_layer(packed(FlatEngine, 8, quantised=True)) <= IN_TURN_GOAL
