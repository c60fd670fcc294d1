"""Whether what trains computes in bfloat16: the GPUs, or without them the processor."""

from __future__ import annotations

from contextlib import suppress

from cluster.doctor import nvidia_smi
from cluster.doctor.checks.compute_capability import version
from cluster.doctor.contract import Asked, Diagnosis, Facts
from trainables.base import device_probe

ON, NEEDS_FILE, TAKES_GPU = "nodes", False, False
SECONDS, HUNG = 120.0, nvidia_smi.HUNG
LEAST = (8, 0)
"""torch/cuda/__init__.py, `is_bf16_supported` without emulation (2.13)."""


def look(asked: Asked) -> Facts:
    """What nvidia-smi tells, and what the CPU does in bfloat16 where it trains."""
    found = nvidia_smi.look()
    speed = None
    if asked.trains_on(len(found["gpus"])) == "cpu":
        with suppress(Exception):  # PyTorch does not load: the check of bitsandbytes says so
            speed = device_probe.bfloat16_speed(None if asked.base is None else asked.base.model)
    return {**found, "bfloat16_speed": speed}


def judge(facts: Facts, _driver: Facts, asked: Asked) -> Diagnosis:
    """Judges by what trains, and by the type that the file names; `auto` where there is no file."""
    named = "auto" if asked.base is None else asked.base.quantization.compute_dtype
    if asked.trains_on(len(facts["gpus"])) == "cpu":
        # A node with an earlier version does not say.
        return _of_cpu(facts.get("bfloat16_speed"), named)
    return _of_gpus(facts, named)


def _of_cpu(speed: float | None, named: str) -> Diagnosis:
    """Warns when the file asks for bfloat16 and float32 is faster; says where bfloat16 would be faster."""
    computes = "auto is float32" if named == "auto" else f"is {named}"
    seen = f"trials train on the CPU, where quantization.compute_dtype {computes}; "
    mend = "set quantization.compute_dtype to float32"
    if speed is None:
        seen += "how fast the CPU is in bfloat16 was not measured"
        return Diagnosis("unknown", seen, mend) if named == "bfloat16" else Diagnosis("ok", seen)
    seen += f"the CPU {device_probe.in_words(speed)}"
    if named == "bfloat16" and device_probe.is_slow(speed):
        return Diagnosis("warn", seen, mend)
    if device_probe.is_slow(1 / speed) and named in ("auto", "float32"):
        seen += ": compute_dtype=bfloat16 makes steps faster (docs/models.md)"
    return Diagnosis("ok", seen)


def _of_gpus(facts: Facts, named: str) -> Diagnosis:
    """Fails when the file asks for bfloat16 and a GPU lacks it; warns under `auto` when a GPU lacks it."""
    lacking = sorted({gpu["name"] for gpu in facts["gpus"] if version(gpu["compute_cap"]) < LEAST})
    if not lacking:
        return Diagnosis("ok", "every GPU has it")
    seen = f"not on {', '.join(lacking)} (it comes with compute capability 8.0)"
    if named == "bfloat16":
        return Diagnosis("fail", seen, "set quantization.compute_dtype to float32, or use other GPUs")
    if named != "auto":
        return Diagnosis("ok", f"{seen}, and quantization.compute_dtype is {named}")
    return Diagnosis(
        "warn",
        seen,
        "trials train there in float32, which is slower; where other GPUs have it, set "
        "quantization.compute_dtype=float32, so that all trials are compared in one type",
    )
