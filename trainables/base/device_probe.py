"""Tries what a base needs on each device of this process: torch, bitsandbytes, and a matrix to NF4 and back."""

from __future__ import annotations

from typing import Any

SIZE = 256


def probe() -> dict[str, Any]:
    """What the libraries say and do here, as JSON data.

    `problem` tells why a library does not load. `devices` has for each GPU that torch sees, or for the CPU without one,
    its `name`, the mean `error` of weights of deviation 1 after NF4, and the `problem` that came instead.
    """
    found: dict[str, Any] = {"problem": None, "sees_gpus": False, "devices": []}
    try:
        import torch
    except Exception as error:  # a library that does not load: whatever its loader raises
        return {**found, "problem": f"PyTorch does not load: {_line(error)}"}
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda, "sees_gpus": torch.cuda.is_available()}
    try:
        import bitsandbytes
    except Exception as error:
        return {**found, "problem": f"bitsandbytes does not load: {_line(error)}"}
    found["bitsandbytes"] = bitsandbytes.__version__
    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if found["sees_gpus"] else ["cpu"]
    return {**found, "devices": [_device(name) for name in names]}


def _device(name: str) -> dict[str, Any]:
    import torch
    from bitsandbytes import functional

    try:
        shown = "CPU" if name == "cpu" else f"{name} ({torch.cuda.get_device_name(name)})"
        weights = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(name)
        quantised, state = functional.quantize_4bit(weights, quant_type="nf4")
        error = (functional.dequantize_4bit(quantised, state) - weights).abs().mean()
        return {"name": shown, "error": float(error), "problem": None}
    except Exception as error:  # a kernel that is not there, a GPU that fell off the bus: what it says is the answer
        return {"name": name, "error": None, "problem": _line(error)}


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
