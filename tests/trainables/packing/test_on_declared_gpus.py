"""No pass of the flat engine mixes devices or waits for a GPU, forward or backward, in any way and kind of model.

The GPUs are declared (`declared_gpus`). PEFT's engine does wait: it takes labelled places by a mask.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import declared_gpus
import packs
import pytest
import torch

from trainables.base import base_model
from trainables.packing import pass_limits
from trainables.packing.engine import Segment
from trainables.packing.flat_engine import FlatEngine

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

WAYS: dict[str, Any] = {"in turn": FlatEngine, "grouped": partial(FlatEngine, grouped=True)}
RESIDENCIES = ("plain", "4bit", "dequantised")
KINDS = sorted(pass_limits.FLAT_KINDS)


# Each way meets each residency, and each kind of model both ways.
@pytest.mark.parametrize(
    ("way", "kind", "residency"),
    [(way, kind, RESIDENCIES[(place + turn) % 3]) for place, kind in enumerate(KINDS) for turn, way in enumerate(WAYS)],
)
def test_a_pass_neither_mixes_devices_nor_waits(monkeypatch, way, kind, residency):
    base = packs.base(kind, residency != "plain", torch.bfloat16)
    if residency == "dequantised":
        base_model.dequantise(base.model)
    with declared_gpus.declared(monkeypatch):
        engine = WAYS[way](declared_gpus.spread_out(base, kind, layers=2))
        parameters = [engine.add(slot, packs.spec(seed=slot, r=r)) for slot, r in enumerate((4, 8, 16))]
        segments = [
            Segment(None, packs.train_rows(0)),
            *(Segment(slot, packs.train_rows(slot + 1)) for slot in range(3)),
        ]
        with declared_gpus.without_waiting():
            losses = engine.token_losses(segments)
            sum(of_segment.sum() for of_segment in losses).backward()
    assert declared_gpus.seen() == set(declared_gpus.GPUS)
    for parameter in (each for of_slot in parameters for each in of_slot.values()):
        assert parameter.grad is not None
        assert declared_gpus.place_of(parameter.grad) == declared_gpus.place_of(parameter)


@pytest.mark.parametrize(
    "wait",
    [float, torch.nonzero, lambda x: x.cpu(), lambda x: x.tolist(), lambda x: x[x > 0]],
    ids=["number", "nonzero", "cpu", "tolist", "mask"],
)
def test_a_wait_is_found(monkeypatch, wait):
    with declared_gpus.declared(monkeypatch):
        there = declared_gpus.move(torch.ones(1), declared_gpus.GPUS[0])
        with declared_gpus.without_waiting(), pytest.raises(declared_gpus.WaitsError):
            wait(there)
