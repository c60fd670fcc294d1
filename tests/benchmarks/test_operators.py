"""The operators of a layer, which are kernels on a GPU."""

from functools import partial

from benchmarks.operators import GOAL, packed, per_layer
from trainables.packing.flat_engine import FlatEngine


def test_grouped_adapters_take_no_more_operators_the_more_there_are():
    two, five = (per_layer(packed(partial(FlatEngine, grouped=True), slots)) for slots in (2, 5))
    assert two == five <= GOAL
    assert per_layer(packed(FlatEngine, 5)) > 2 * GOAL
