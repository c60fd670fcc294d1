"""Names of GPUs, as nvidia-smi and people give them."""

from __future__ import annotations

import pytest

from cluster.gpu_table import GPUS, named, types


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("2x NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A10G", "A10G"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("A100 80GB", "A100 80GB"),
    ],
)
def test_a_device_is_found_by_its_name(device, name):
    assert types(device, None) == (name,)


def test_a_type_is_found_by_what_people_call_it_and_one_without_bfloat16_computes_in_float32():
    assert [named(kind) for kind in (" h100", "4090", "H1000")] == ["H100", "RTX 4090", None]
    assert GPUS["T4"].peak("auto") == GPUS["T4"].peak("float32") < GPUS["T4"].peak("float16")
    assert GPUS["L4"].peak("auto") == GPUS["L4"].peak("bfloat16") > GPUS["L4"].peak("float32")
