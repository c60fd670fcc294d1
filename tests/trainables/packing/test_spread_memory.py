"""The memory of a host of several GPUs is that of the fullest one; nothing but arithmetic."""

from __future__ import annotations

from collections import Counter

import packs
import pytest
from known_models import LLAMA_70B

from trainables.base import spread
from trainables.contract import Device, RowShape
from trainables.packing import blocks, memory
from trainables.specs import QuantizationSpec, TrialSpec

ROWS = RowShape(longest=512, mean=217, labelled=0.6, train_rows=7000, eval_rows=200)
H100 = int(80e9 * 0.85)


def trial(scheme: str = "nf4", residency: str = "auto", **changes) -> TrialSpec:
    quantization = QuantizationSpec.model_validate({"scheme": scheme, "residency": residency})
    return packs.spec(r=16, **{"batch_size": 4, **changes}).model_copy(update={"quantization": quantization})


def need(spec: TrialSpec, gpus: int, device: Device = "cuda"):
    return memory.need(spec, [], LLAMA_70B, device, ROWS, "llama", gpus)


def test_a_base_that_fits_no_single_gpu_fits_several():
    spec = trial("none", gradient_checkpointing=True)
    fitting = [gpus for gpus in range(1, 9) if need(spec, gpus).total(1) <= H100]
    assert fitting == [3, 4, 5, 6, 7, 8]  # 141 GB of weights, in bfloat16
    assert need(spec, 2).base_bytes == pytest.approx(71e9, rel=0.02)


@pytest.mark.parametrize("spec", [trial(), trial("none"), trial(residency="dequantised")])
@pytest.mark.parametrize("gpus", [2, 3, 4, 8])
def test_what_lies_in_blocks_is_spread_and_what_a_pass_needs_is_whole_on_each_gpu(spec, gpus):
    alone, shared = need(spec, 1).memory(4), need(spec, gpus).memory(4)
    width = 2
    block = sum(inputs * outputs for inputs, outputs in blocks.shapes(LLAMA_70B).values())
    outside = (LLAMA_70B.parameters - 80 * block) * width
    places = spread.places([block * spread.linear_bytes(spec.quantization, width)] * 80, outside, gpus)
    most = max(Counter(places).values()) / 80
    for part in ("adapters", "gradients", "optimizer"):
        assert getattr(shared, part) == pytest.approx(getattr(alone, part) * most)
    assert alone.activations * most <= shared.activations < alone.activations
    assert (shared.logits, shared.process) == (alone.logits, alone.process)
    on_each = [
        outside * (gpu == 0) + places.count(gpu) * block * spread.linear_bytes(spec.quantization, width)
        for gpu in range(gpus)
    ]
    assert max(on_each) <= shared.base < alone.base
    assert shared.base * gpus >= alone.base


def test_what_is_kept_on_disk_and_what_keeps_a_gpu_busy_do_not_change():
    alone, shared = need(trial(), 1), need(trial(), 4)
    for field in ("adapter_bytes", "snapshot_bytes", "saturating_slots"):
        assert getattr(alone, field) == getattr(shared, field)
    assert need(trial(), 4, "cpu") == need(trial(), 1, "cpu")


def test_a_pass_that_scores_is_whole_on_the_gpu_that_holds_the_most():
    alone, shared = (memory.scoring_bytes(trial("none"), LLAMA_70B, "cuda", gpus) for gpus in (1, 2))
    assert 0.5 < shared / alone < 0.56
    assert memory.scoring_bytes(trial(residency="dequantised"), LLAMA_70B, "cuda", 2) < shared
