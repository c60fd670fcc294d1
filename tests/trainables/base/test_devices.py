"""What this process trains on, and in which type."""

from __future__ import annotations

import pytest
import torch

from trainables.base import device_probe, devices
from trainables.errors import NotTrainable
from trainables.specs import QuantizationSpec, TrialSpec


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)


def test_a_gpu_of_amd_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.gpus() == (torch.device("cuda", 0),)
    monkeypatch.setattr("torch.version.hip", "6.4")
    with pytest.raises(NotTrainable, match=r"^GPUs of AMD are not supported: use NVIDIA GPUs, or hide them with "):
        devices.gpus()
    assert device_probe.probe()["problem"].startswith("GPUs of AMD are not supported")


@pytest.mark.parametrize(("native", "named", "computes"), [
    (True, "auto", "auto"), (False, "auto", "float32"), (False, "bfloat16", "bfloat16"), (False, "float16", "float16")
])  # fmt: skip
def test_estimates_count_the_type_that_this_gpu_computes_in(monkeypatch, native, named, computes) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (8, 0) if native else (7, 5))
    spec = TrialSpec(trainable="toy", quantization=QuantizationSpec(compute_dtype=named), steps=1)
    assert devices.in_own_type(spec).quantization.compute_dtype == computes
