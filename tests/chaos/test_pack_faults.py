"""What goes wrong in one trial stays in it: NaN, an exception in its data, a lack of memory, with three neighbours."""

from __future__ import annotations

import math

import packs
import pytest
import torch

from cluster.loop import PackLoop
from trainables.objective import Standing

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(600),
]
NEIGHBOURS = {
    "a": packs.spec(seed=11, r=2, lora_alpha=16.0, lora_dropout=0.3, target_modules="attention-qv", batch_size=3),
    "b": packs.spec(seed=12, r=16, use_rslora=True, target_modules="mlp", batch_size=1, schedule="cosine"),
    "c": packs.spec(seed=13, r=8, lora_dropout=0.1, gradient_accumulation_steps=2),
}
CULPRIT = packs.spec(seed=99, r=4)
STEPS = 8
# Single precision, ten steps.
FP32 = 1e-5


@pytest.fixture(autouse=True, params=packs.ENGINES, ids=lambda engine: engine.__name__)
def engine(request, monkeypatch):
    monkeypatch.setattr(packs, "ENGINE", request.param)


def of_culprit(segments) -> list[int]:
    """The slot of the culprit when it is at step 3; empty at other times."""
    return [segment.slot for segment in segments if segment.dropout and segment.dropout[:2] == (CULPRIT.seed, 3)]


def nan_at_step_three(engine, segments) -> None:
    for slot in of_culprit(segments):
        with torch.no_grad():
            next(iter(engine._adapters.parameters[slot].values())).fill_(math.nan)


def exception_at_step_three(engine, segments) -> None:
    if of_culprit(segments):
        raise KeyError("row 17")


def out_of_memory_at_step_three(engine, segments) -> None:
    if of_culprit(segments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def outcomes(loop: PackLoop, leases: dict) -> dict:
    """Every lease at its last step, or its failure."""
    for lease, spec in leases.items():
        loop.open(lease, spec, None).result(120)
    for lease in leases:
        loop.advance(lease, STEPS, Standing(), 0, 0.0)
    return {lease: loop.advance(lease, STEPS, Standing(), 0, 300.0) for lease in leases}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (nan_at_step_three, "diverged"),
        (exception_at_step_three, "failed"),
        (out_of_memory_at_step_three, "out_of_memory"),
    ],
)
def test_fault_in_one_trial_changes_nothing_for_three_neighbours(monkeypatch, fault, kind):
    calm = PackLoop(packs.pack(packs.base(quantised=True)), 4)
    expected = outcomes(calm, NEIGHBOURS)
    calm.stop()

    pack = packs.pack(packs.base(quantised=True))
    packs.before_passes(monkeypatch, fault)
    loop = PackLoop(pack, 4)
    found = outcomes(loop, {**NEIGHBOURS, "culprit": CULPRIT})
    assert found["culprit"].failure.kind == kind
    assert [record.step for record in found["culprit"].history] == [1, 2]
    for lease in NEIGHBOURS:
        assert found[lease].failure is None
        losses = [record.train_loss for record in found[lease].history]
        assert losses == pytest.approx([record.train_loss for record in expected[lease].history], abs=FP32)
        assert found[lease].evaluation.loss == pytest.approx(expected[lease].evaluation.loss, abs=FP32)

    monkeypatch.undo()
    loop.close("culprit").result(120)
    again = outcomes(loop, {"after": packs.spec(seed=5)})["after"]
    assert (again.step, again.failure) == (STEPS, None)
    loop.stop()
