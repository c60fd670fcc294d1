"""Whether the GPUs compute in bfloat16."""

from __future__ import annotations

from cluster.doctor import nvidia_smi
from cluster.doctor.checks.compute_capability import version
from cluster.doctor.contract import Asked, Diagnosis, Facts

ON, NEEDS_FILE, TAKES_GPU = "nodes", False, False
SECONDS, HUNG = nvidia_smi.SECONDS, nvidia_smi.HUNG
LEAST = (8, 0)
"""torch/cuda/__init__.py, `is_bf16_supported` without emulation (2.13)."""


def look(_asked: Asked) -> Facts:
    """What nvidia-smi tells."""
    return nvidia_smi.look()


def judge(facts: Facts, _driver: Facts, asked: Asked) -> Diagnosis:
    """Fails when the file asks for bfloat16 and a GPU lacks it; warns under `auto` when a GPU lacks it."""
    if not facts["gpus"]:
        return Diagnosis("ok", "no GPU: quantization.compute_dtype auto is float32")
    lacking = sorted({gpu["name"] for gpu in facts["gpus"] if version(gpu["compute_cap"]) < LEAST})
    if not lacking:
        return Diagnosis("ok", "every GPU has it")
    seen = f"not on {', '.join(lacking)} (it comes with compute capability 8.0)"
    named = "auto" if asked.base is None else asked.base.quantization.compute_dtype
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
