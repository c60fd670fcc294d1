"""What a step does on a GPU: kernels and the time that they take, by torch's profiler."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


def of(step: Callable[[], Any]) -> dict[str, float]:
    """Kernels of one step, milliseconds in which the GPU computes, and its share of the step's time."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    kernels = [event for event in profiled.events() if event.device_type == DeviceType.CUDA]
    busy = sum(event.device_time for event in kernels) / 1e6
    return {"kernels": len(kernels), "gpu_busy_ms": 1e3 * busy, "gpu_busy_share_profiled": busy / seconds}
