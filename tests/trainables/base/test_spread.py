"""Where the parts of a base lie that is spread over GPUs, and what moves between them."""

from __future__ import annotations

import accelerate
import packs
import pytest
import tiny_models
import torch
from accelerate.utils import check_device_map
from torch import nn
from transformers.integrations.accelerate import expand_device_map

from trainables.base import base_model, devices, spread
from trainables.errors import ModelError
from trainables.specs import QuantizationSpec

GPUS = tuple(torch.device("cuda", index) for index in range(3))
PLAIN, NF4 = QuantizationSpec(scheme="none"), QuantizationSpec()


@pytest.mark.parametrize(
    ("blocks", "outside", "gpus", "expected"),
    [
        (4, 0, 2, [0, 0, 1, 1]),
        (4, 2, 2, [0, 1, 1, 1]),
        (4, 4, 2, [1, 1, 1, 1]),
        (7, 2, 3, [0, 1, 1, 1, 2, 2, 2]),
        (1, 0, 4, [2]),
        (3, 0, 1, [0, 0, 0]),
    ],
)
def test_blocks_are_given_out_in_their_order_with_as_many_bytes_on_each_gpu(blocks, outside, gpus, expected):
    assert spread.places([1] * blocks, outside, gpus) == expected


@pytest.mark.parametrize("size", [80, 61, 33])
@pytest.mark.parametrize("gpus", [2, 3, 4, 8])
def test_no_gpu_holds_more_than_one_block_beyond_its_part(size, gpus):
    found = spread.places([1.0] * size, 3.5, gpus)
    held = [found.count(gpu) + (3.5 if gpu == 0 else 0) for gpu in range(gpus)]
    assert found == sorted(found)
    assert max(held) <= (size + 3.5) / gpus + 1


def test_four_bits_make_a_block_light_beside_the_embeddings():
    assert spread.linear_bytes(PLAIN, 2) == spread.linear_bytes(QuantizationSpec(residency="dequantised"), 2) == 2
    assert 0.5 < spread.linear_bytes(NF4, 2) < 0.52  # four bits, and a byte of constants per 64 weights
    model = tiny_models.build("llama", layers=8)
    for how, on_first in ((PLAIN, 1), (NF4, 0)):
        mapped = spread.device_map("m", model, GPUS, 4, how)
        assert sum(device == GPUS[0] for name, device in mapped.items() if "layers" in name) == on_first


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "gpt_neox", "mixtral"])
def test_the_map_names_every_weight_and_what_is_outside_the_blocks_lies_on_the_first_gpu(architecture):
    model = tiny_models.build(architecture, layers=12)
    mapped = spread.device_map("m", model, GPUS, 4, PLAIN)
    check_device_map(model, mapped)
    names = [name for name, _ in [*model.named_parameters(), *model.named_buffers()]]
    found = expand_device_map(mapped, names)
    placed = {number: mapped[name] for name in mapped if (number := name.rpartition(".")[2]).isdigit()}
    assert len(placed) == 12
    assert len(set(placed.values())) > 1
    for name, device in found.items():
        own = [placed[part] for part in name.split(".") if part in placed]
        assert device == [*own, GPUS[0]][0], name


def test_a_model_that_cannot_be_spread_is_refused_with_the_way_out():
    problem = "'m' has no list of blocks to spread over GPUs: set cluster.gpus_per_host=1"
    with pytest.raises(ModelError, match=problem):
        spread.device_map("m", nn.Sequential(nn.Linear(4, 4)), GPUS[:2], 4, PLAIN)


def test_what_lies_there_already_is_not_copied():
    tensor, pieces = torch.ones(2), ((1, None), (2, 0))
    assert spread.moved(tensor, torch.device("cpu")) is tensor
    assert spread.moved(pieces, GPUS[0]) is pieces
    given = {"position": (tensor, [tensor, 3]), "none": None}
    there = spread.moved(given, torch.device("meta"))
    assert there["position"][0].is_meta
    assert there["position"][1][0].is_meta
    assert there["position"][1][1] == 3


def test_only_the_hooks_of_blocks_stay_and_the_last_one_brings_the_output_back():
    model = packs.base(layers=4).model
    accelerate.dispatch_model(model, {"model": "cpu", "lm_head": "cpu"}, force_hooks=True)
    cpu, meta = torch.device("cpu"), torch.device("meta")
    blocks = list(model.model.layers)
    spread.connect(model, {f"model.layers.{number}": cpu if number < 2 else meta for number in range(4)})
    assert not any(hasattr(module, "_hf_hook") for module in model.modules())
    hooks = [(len(block._forward_pre_hooks), len(block._forward_hooks)) for block in blocks]
    assert hooks == [(0, 0), (0, 0), (1, 0), (1, 1)]
    ids = torch.arange(5)[None]
    seen = []
    blocks[1].register_forward_hook(lambda *given: seen.append(given[-1].device))
    blocks[2].register_forward_pre_hook(lambda _, given: seen.append(given[0].device))
    for block in blocks[2:]:
        block.to(meta)
    with pytest.raises(NotImplementedError, match="meta tensor"):  # what comes back to the CPU has no content
        model(input_ids=ids)
    assert seen == [cpu, meta]


def test_a_base_is_made_and_loaded_by_the_map(tmp_path, monkeypatch):
    spec, ids = tiny_models.trial_on(tiny_models.save("llama", tmp_path / "model")), torch.arange(5)[None]
    with torch.no_grad():
        expected = base_model.load(spec, tmp_path / "whole").model(input_ids=ids).logits
        monkeypatch.setattr(devices, "gpus", lambda: (torch.device("cpu"), torch.device("cpu")))
        loaded = base_model.load(spec, tmp_path / "spread")
        assert torch.equal(loaded.model(input_ids=ids).logits, expected)
    assert loaded.devices == (torch.device("cpu"),)
