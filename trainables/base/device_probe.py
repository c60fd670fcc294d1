"""Tests torch, and bitsandbytes with NF4, on each device of this process; measures the CPU's speed in bfloat16."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from trainables import timeouts
from trainables.base import devices, model_source
from trainables.errors import TrainableError
from trainables.specs import ModelSpec

SIZE = 256
_TOKENS, _WIDEST, _USUAL = 128, 2048, (576, 1536)
"""Rows of a product; the largest of its other sizes, so that it stays short; sizes for a model of unknown sizes."""
_LEAST_ROUNDS = 3
_LIKE = 1.1
"""Speeds that differ by a smaller factor count as equal."""


def probe() -> dict[str, Any]:
    """Tests the libraries on this machine; returns the results as JSON data.

    `problem` tells why a library does not load. `devices` has an entry for each GPU that torch sees, or for the CPU
    without one: its `name`, and the mean `error` of weights of deviation 1 after NF4, or the `problem`.
    """
    found: dict[str, Any] = {"problem": None, "sees_gpus": False, "devices": []}
    try:
        import torch
    except Exception as error:  # a library that does not load: whatever its loader raises
        return {**found, "problem": f"PyTorch does not load: {_line(error)}"}
    try:
        devices.gpus()
    except TrainableError as error:
        return {**found, "problem": str(error)}
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
    except Exception as error:  # a missing kernel, a GPU that fell off the bus: the message is the result
        return {"name": name, "error": None, "problem": _line(error)}


def bfloat16_speed(model: ModelSpec | None) -> float:
    """Returns how many times as fast as in float32 the CPU multiplies matrices of the model's shapes in bfloat16.

    Takes about 50 ms (0.3 s for products of width 2,048 on a CPU that emulates bfloat16). Compares CPU times of one
    thread, the shortest of several products for each type, so that other processes hardly matter. The flags of a CPU
    do not tell the speed: a CPU with avx512_bf16 and without AMX is slower in bfloat16 (oneDNN 3.7).
    """
    import torch

    sizes = None
    with suppress(TrainableError):  # told elsewhere
        sizes = None if model is None else model_source.facts(model)
    inner, outer = _USUAL if sizes is None else (sizes.hidden_size, sizes.intermediate_size)
    shapes = (_TOKENS, min(inner, _WIDEST)), (min(outer, _WIDEST), min(inner, _WIDEST))
    pairs = {dtype: [torch.ones(shape, dtype=dtype) for shape in shapes] for dtype in (torch.float32, torch.bfloat16)}
    shortest, threads, rounds, began = (
        dict.fromkeys(pairs, float("inf")),
        torch.get_num_threads(),
        0,
        time.thread_time(),
    )
    torch.set_num_threads(1)
    try:
        while rounds < _LEAST_ROUNDS or time.thread_time() - began < timeouts.BFLOAT16_PROBE:
            rounds += 1
            for dtype, (inputs, weights) in pairs.items():
                start = time.thread_time()
                torch.nn.functional.linear(inputs, weights)
                shortest[dtype] = min(shortest[dtype], time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return shortest[torch.float32] / shortest[torch.bfloat16]


def is_slow(speed: float) -> bool:
    """Tells whether a CPU of this `bfloat16_speed` trains faster in float32."""
    return speed * _LIKE < 1


def in_words(speed: float) -> str:
    """Describes a `bfloat16_speed` in words that follow the name of the CPU."""
    if is_slow(speed):
        return f"takes {1 / speed:.1f} times as long in bfloat16 as in float32 (measured)"
    times = f"{speed:.1f} times" if is_slow(1 / speed) else "about"
    return f"is {times} as fast in bfloat16 as in float32 (measured)"


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
