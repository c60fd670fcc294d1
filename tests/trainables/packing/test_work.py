"""Operations of a token against those that torch counts in real passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainables.base.base_model import checkpoint_gradients
from trainables.contract import RowShape, Work
from trainables.packing import work
from trainables.packing.engine import Segment
from trainables.specs import ModelFacts, TrialSpec

from .test_pass_memory import FACTS, LENGTH, ROWS, SIZES, flat, row_of, trial

LAYERS = 3


def added_in_place(_sum: Any, left: Any, right: Any, **_: Any) -> int:
    """Operations of `addmm_`, which torch does not count by itself."""
    return int(2 * left[0] * left[1] * right[1])


IN_PLACE = {torch.ops.aten.addmm_: added_in_place}


def counted(spec: TrialSpec, trains: bool) -> float:
    """Operations of all matrix products of a pass, per token; attention is none of them on a CPU.

    In bfloat16: in float32 evaluation adds adapters to the weights.
    """
    engine = flat("llama", LAYERS, torch.bfloat16)
    if spec.training.gradient_checkpointing is True:
        checkpoint_gradients(engine.base.model)
    engine.add(0, spec)
    segment = Segment(0, [row_of(place) for place in range(ROWS)])
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter, torch.set_grad_enabled(trains):
        (losses,) = engine.token_losses([segment])
        if trains:
            losses.sum().backward()
    return counter.get_total_flops() / (ROWS * LENGTH)


def estimated(spec: TrialSpec, facts: ModelFacts = FACTS) -> Work:
    """The same by arithmetic, where attention looks at nothing."""
    rows = RowShape(longest=1, mean=1e-9, labelled=1.0, train_rows=1, eval_rows=1)
    return work.counted(spec, facts.model_copy(update={"layers": LAYERS}), rows, "flat")


@pytest.mark.parametrize("modules", ["attention-qv", "all-linear"])
def test_a_token_takes_the_operations_that_torch_counts(modules: str) -> None:
    spec = trial(target_modules=modules)
    found = estimated(spec)
    # The first block's input needs no gradient.
    assert 0.9 * found.trained <= counted(spec, trains=True) <= found.trained
    assert 0.9 * found.evaluated <= counted(spec, trains=False) <= found.evaluated


def changed(spec: TrialSpec, **training: Any) -> TrialSpec:
    return spec.model_copy(update={"training": spec.training.model_copy(update=training)})


def test_what_is_computed_again_counts() -> None:
    spec = trial(target_modules="all-linear")
    again = changed(spec, gradient_checkpointing=True)
    more = estimated(again).trained - estimated(spec).trained
    assert counted(again, trains=True) - counted(spec, trains=True) == pytest.approx(more, rel=0.1)


def test_attention_looks_at_half_of_the_row_and_the_head_at_labels() -> None:
    def of(mean: float, labelled: float) -> Work:
        rows = RowShape(longest=512, mean=mean, labelled=labelled, train_rows=1, eval_rows=1)
        return work.counted(trial(), FACTS, rows, None)

    assert of(200, 1).evaluated - of(100, 1).evaluated == 4 * 50 * SIZES["hidden_size"]
    assert of(100, 1).evaluated - of(100, 0.5).evaluated == SIZES["vocab_size"] * SIZES["hidden_size"]


def test_a_slot_adds_no_operators_in_grouped_products_and_computing_again_adds_a_forward_pass() -> None:
    spec = trial()
    together, again = changed(spec, engine="grouped"), changed(spec, gradient_checkpointing=True)
    assert estimated(together).slot_operators == 0 < estimated(spec).slot_operators
    assert estimated(again).slot_operators == pytest.approx(1.4 * estimated(spec).slot_operators, rel=0.01)
    assert estimated(again).forward_operators == estimated(spec).forward_operators
