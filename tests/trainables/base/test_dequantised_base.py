"""A base that is dequantised once computes what the 4-bit base computes, to the bit."""

from __future__ import annotations

from pathlib import Path

import packs
import pytest
import tiny_models
import torch
import trainable_kits
from bitsandbytes.nn import Linear4bit
from tiny_models import trial_on

from trainables import qlora
from trainables.base import base_model
from trainables.packing.adapter_pack import AdapterPack
from trainables.packing.engine import DropoutKey, Segment
from trainables.specs import QuantizationSpec


def quantised_layers(model: torch.nn.Module) -> int:
    return sum(isinstance(module, Linear4bit) for module in model.modules())


@pytest.mark.parametrize("make", packs.ENGINES, ids=lambda engine: engine.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_are_equal(make, dtype):
    found = []
    for dequantised in (False, True):
        base = packs.base("qwen2", quantised=True, dtype=dtype)  # its query, key and value layers have biases
        if dequantised:
            base_model.dequantise(base.model)
        assert bool(quantised_layers(base.model)) is not dequantised
        engine = make(base)
        parameters = engine.add(0, packs.spec(seed=1, r=4, lora_dropout=0.2))
        rows = [packs.rows().train.row(place) for place in range(3)]
        losses = engine.token_losses([Segment(0, rows, DropoutKey(1, 1, 0))])[0]
        losses.sum().backward()
        found.append([losses, *(parameter.grad for parameter in parameters.values())])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))


def test_what_was_not_quantised_is_left_alone():
    base = packs.base(quantised=True)
    head = base.model.get_output_embeddings()
    base_model.dequantise(base.model)
    assert base.model.get_output_embeddings() is head
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in base.model.parameters())
    assert not any(module.training for module in base.model.modules())


@pytest.mark.parametrize(("asked", "layers"), [("auto", 0), ("4bit", 14)])
def test_a_pack_has_the_base_as_the_sweep_file_says(tmp_path: Path, asked: str, layers: int):
    base = trainable_kits.qlora_kit(tmp_path).base
    quantization = QuantizationSpec.model_validate({"compute_dtype": "float32", "residency": asked})
    base = base.model_copy(update={"quantization": quantization})
    pack = qlora.open_pack(base, qlora.prepare(base, tmp_path).payload, tmp_path)
    assert isinstance(pack, AdapterPack)
    assert quantised_layers(pack._engine.base.model) == layers
    assert pack.engine_name == "flat"


def test_the_estimate_counts_what_the_pack_will_hold(tmp_path: Path):
    folder = tiny_models.save("llama", tmp_path / "model")
    assert qlora.is_dequantised(trial_on(folder, compute_dtype="auto"), "cpu")
    assert not qlora.is_dequantised(trial_on("owner/name-of-no-model"), "cpu")
    assert qlora.is_dequantised(trial_on("owner/name-of-no-model", residency="dequantised"), "cpu")
