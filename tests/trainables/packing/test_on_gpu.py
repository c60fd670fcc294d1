"""What only a GPU can show, by `make gpu`: each way to compute passes gives the numbers of PEFT's layers there."""

from __future__ import annotations

import dataclasses

import packs
import pytest
import torch

from trainables.base.base_model import Base
from trainables.engine_paths import EnginePath
from trainables.packing import self_test

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]


def on_gpu(architecture: str, dtype: torch.dtype) -> Base:
    base = packs.base(architecture, dtype=dtype)
    return dataclasses.replace(base, model=base.model.to("cuda"), device=torch.device("cuda", 0))


@pytest.mark.parametrize("engine", ["flat", "grouped"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text", "mistral"])
def test_a_path_gives_the_numbers_of_the_reference(architecture, dtype, engine):
    rows = [packs.rows().train.row(place) for place in range(5)]
    reference = self_test.Reference(on_gpu(architecture, dtype), packs.spec(r=8), rows)
    path = EnginePath.model_validate({"engine": engine, "residency": "dequantised"})
    assert reference.difference(path) < 1.0
