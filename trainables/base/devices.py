"""Finds the devices of this process: the GPUs that it sees, which are those of its host, or else the CPU.

Also imports the library that quantises weights on the devices.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

from trainables.contract import has_bfloat16
from trainables.errors import NotTrainable
from trainables.specs import QuantizationSpec, TrialSpec

if TYPE_CHECKING:
    import torch


SWITCH = "TORCHDYNAMO_DISABLE"


def import_bitsandbytes() -> None:
    """Imports bitsandbytes without torch's compiler, which saves 2 of the 7 s of a host's imports.

    Call this before anything else imports bitsandbytes. bitsandbytes 0.50.2 wraps four functions in torch.compile when
    it is imported (backends/default/ops.py), which imports all of torch's compiler. These functions are optimizers and
    fallbacks for devices without own kernels, and now run uncompiled. torch reads the switch when a function is wrapped
    (_dynamo/eval_frame.py, 2.13), so torch.compile works as usual afterwards.
    """
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        import bitsandbytes  # noqa: F401
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def give_back() -> None:
    """Collects garbage, and gives the memory of freed tensors on GPUs back, which PyTorch would keep for itself."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def gpus() -> tuple[torch.device, ...]:
    """Returns the GPUs that this process sees, which share a base; none without CUDA.

    Raises NotTrainable for GPUs of AMD: their memory is not counted, since nvidia-smi does not list them.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count and torch.version.hip is not None:
        raise NotTrainable("GPUs of AMD are not supported: use NVIDIA GPUs, or hide them with HIP_VISIBLE_DEVICES=-1")
    return tuple(torch.device("cuda", index) for index in range(count))


def first() -> torch.device:
    """Returns the device that tokens go to: the first GPU, or the CPU without one."""
    import torch

    return next(iter(gpus()), torch.device("cpu"))


def kind(device: torch.device) -> str:
    """Returns the maker's name of a GPU; "cpu" for a CPU. Losses agree less closely between two kinds of GPU."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def compute_dtype(quantization: QuantizationSpec, device: torch.device) -> torch.dtype:
    """Returns the type of activations on `device`; `auto` is bfloat16 on a GPU that has it, else float32.

    `auto` is never bfloat16 on a CPU: oneDNN accepts it on every CPU with AVX-512, but may emulate it, in 5 times the
    time.
    """
    import torch

    if quantization.compute_dtype != "auto":
        dtype: torch.dtype = getattr(torch, quantization.compute_dtype)
        return dtype
    native = device.type == "cuda" and has_bfloat16(torch.cuda.get_device_capability(device))
    return torch.bfloat16 if native else torch.float32


def in_own_type(spec: TrialSpec) -> TrialSpec:
    """Returns the spec for estimates, which take `auto` for bfloat16 on GPUs; this process's GPU may not have it."""
    import torch

    has_it = compute_dtype(spec.quantization, device := first()) == torch.bfloat16
    return spec if has_it or device.type == "cpu" else spec.without_bfloat16()
