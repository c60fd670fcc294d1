"""A model whose output no longer depends on its input has diverged; one that is all but uniform has not."""

from __future__ import annotations

import math

import numpy as np
import packs
import pytest
import torch

from trainables.contract import Evaluation, Failure
from trainables.data import dataset


@pytest.fixture(autouse=True, params=packs.ENGINES, ids=lambda engine: engine.__name__)
def engine(request, monkeypatch):
    monkeypatch.setattr(packs, "ENGINE", request.param)


@pytest.mark.parametrize("biased", [False, True], ids=["uniform", "constant"])
def test_a_trial_whose_output_no_longer_depends_on_the_input_has_diverged(biased):
    """At a learning rate of 1e3 the last norm divides by infinity: all logits are the bias of the head, or 0."""
    loaded = packs.base()
    if biased:
        loaded.model.lm_head.bias = torch.nn.Parameter(torch.linspace(-4, 4, packs.tiny_models.VOCAB_SIZE), False)
    pack = packs.pack(loaded)
    pack.open(0, packs.spec(learning_rate=1e3))
    pack.open(1, packs.spec(seed=7))
    packs.losses(pack, 0, 10, (1,))
    result = pack.evaluate([0, 1])
    assert isinstance(result[0], Failure) and result[0].kind == "diverged"
    assert result[0].message.endswith(": the output no longer depends on the input")
    assert biased or result[0].message.startswith(f"eval_loss {math.log(packs.tiny_models.VOCAB_SIZE):.4f}")
    assert all(isinstance(other, Evaluation) for other in (result[1], pack.evaluate_base()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_model_that_is_all_but_uniform_has_not_diverged(dtype):
    loaded = packs.base(dtype=dtype)
    loaded.model.lm_head.weight.mul_(1e-2)
    pack = packs.pack(loaded)
    found = pack.evaluate_base()
    assert isinstance(found, Evaluation)
    assert found.loss == pytest.approx(math.log(packs.tiny_models.VOCAB_SIZE), abs=1e-2)


def test_equal_rows_say_nothing_of_what_the_output_depends_on():
    row = packs.rows().eval.row(0)
    same = dataset.Split(np.tile(row.ids, 8), np.arange(9) * len(row.ids), np.tile(row.labelled, 8))
    assert len(set(row.ids[row.labelled])) > row.labels - 3, "a test of rows whose tokens hardly repeat"
    pack = packs.pack(data=dataset.Splits(packs.rows().train, same))
    assert isinstance(pack.evaluate_base(), Evaluation)
