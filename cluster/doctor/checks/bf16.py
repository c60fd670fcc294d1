"""Whether what trains computes in bfloat16: the GPUs, or without them the processor."""

from __future__ import annotations

from cluster import devices
from cluster.doctor import nvidia_smi
from cluster.doctor.checks.compute_capability import version
from cluster.doctor.contract import Asked, Diagnosis, Facts

ON, NEEDS_FILE, TAKES_GPU = "nodes", False, False
SECONDS, HUNG = nvidia_smi.SECONDS, nvidia_smi.HUNG
LEAST = (8, 0)
"""torch/cuda/__init__.py, `is_bf16_supported` without emulation (2.13)."""


def look(_asked: Asked) -> Facts:
    """What nvidia-smi tells, and the processor."""
    return {**nvidia_smi.look(), "cpu_has_it": devices.cpu_has_bfloat16()}


def judge(facts: Facts, _driver: Facts, asked: Asked) -> Diagnosis:
    """Judges by what trains, and by the type that the file names; `auto` where there is no file."""
    named = "auto" if asked.base is None else asked.base.quantization.compute_dtype
    if asked.trains_on(len(facts["gpus"])) == "cpu":
        # A node with an earlier version does not say.
        return _of_cpu(facts.get("cpu_has_it"), named)
    return _of_gpus(facts, named)


def _of_cpu(has_it: bool | None, named: str) -> Diagnosis:
    """Warns when the file asks for bfloat16 and the processor emulates it; says where it would be faster."""
    computes = "auto is float32" if named == "auto" else f"is {named}"
    seen = f"trials train on the CPU, where quantization.compute_dtype {computes}; the CPU "
    if has_it is None:
        seen += "does not say here whether it has instructions for bfloat16"
    else:
        seen += "has instructions for bfloat16" if has_it else "has no instructions for bfloat16"
    if named == "bfloat16" and not has_it:
        mend = "set quantization.compute_dtype to float32: a CPU without them emulates bfloat16, several times slower"
        return Diagnosis("unknown" if has_it is None else "warn", seen, mend)
    if has_it and named in ("auto", "float32"):
        seen += ": steps with compute_dtype=bfloat16 may take little more than half the time (docs/models.md)"
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
