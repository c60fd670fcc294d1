"""No pass of the flat engine mixes devices or waits for a GPU, forward or backward, in any way and kind of model.

torch's fake tensors of a GPU serve bitsandbytes' operators alone: a CPU build of torch can neither index them nor take
them into autograd (torch 2.13). So the GPUs are declared (`declared_gpus`). PEFT's engine does wait: it takes labelled
places by a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import declared_gpus
import packs
import pytest
import torch
from bitsandbytes.functional import quantize_4bit
from torch._subclasses.fake_tensor import FakeTensorMode

from trainables.base import base_model
from trainables.packing import lora_product, pass_limits
from trainables.packing.engine import Segment
from trainables.packing.flat_engine import FlatEngine

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

WAYS: dict[str, Callable[..., FlatEngine]] = {
    "in turn": FlatEngine,
    "grouped": partial(FlatEngine, grouped=True),
}
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
    rows = [packs.rows().train.row(place) for place in range(4)]
    with declared_gpus.declared(monkeypatch):
        engine = WAYS[way](declared_gpus.spread_out(base, kind, layers=2))
        parameters = [engine.add(slot, packs.spec(seed=slot, r=r)) for slot, r in enumerate((4, 8, 16))]
        segments = [Segment(None, rows[:1]), *(Segment(slot, [rows[slot + 1]]) for slot in range(3))]
        with declared_gpus.without_waiting():
            losses = engine.token_losses(segments)
            sum(of_segment.sum() for of_segment in losses).backward()
    assert declared_gpus.seen() == set(declared_gpus.GPUS)
    for parameter in (each for of_slot in parameters for each in of_slot.values()):
        assert parameter.grad is not None
        assert declared_gpus.place_of(parameter.grad) == declared_gpus.place_of(parameter)


@pytest.mark.parametrize("double", [False, True])
def test_a_4bit_weight_is_dequantised_where_it_lies_by_operators_that_torch_can_follow(double):
    """Forward alone: autograd asks fake tensors of a GPU for a device guard, which a CPU build ends the process at."""
    packed, state = quantize_4bit(torch.ones(32, 64), compress_statistics=double, quant_type="nf4")
    with FakeTensorMode(allow_non_fake_inputs=True):
        there = partial(torch.empty_like, device="cuda")
        stored: Any = there(packed)
        stored.quant_state = declared_gpus.replace(state, there)
        layer: Any = SimpleNamespace(weight=stored, compute_dtype=torch.bfloat16)
        found = lora_product.weight(layer)
    assert (found.device.type, found.shape, found.dtype) == ("cuda", (32, 64), torch.bfloat16)


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
