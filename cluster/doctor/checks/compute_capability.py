"""Whether the GPUs are new enough for the libraries."""

from __future__ import annotations

from cluster.doctor import nvidia_smi
from cluster.doctor.contract import Asked, Diagnosis, Facts

ON, NEEDS_FILE, TAKES_GPU = "nodes", False, False
SECONDS, HUNG = nvidia_smi.SECONDS, nvidia_smi.HUNG
LEAST, ADVISED = (6, 0), (7, 5)
"""What bitsandbytes needs at least, and recommends (its README of 0.50: SM60+ minimum, SM75+ recommended)."""


def look(_asked: Asked) -> Facts:
    """What nvidia-smi tells."""
    return nvidia_smi.look()


def judge(facts: Facts, _driver: Facts, _asked: Asked) -> Diagnosis:
    """Fails below what bitsandbytes needs, and warns below what it recommends."""
    if not facts["gpus"]:
        return Diagnosis("ok", "no GPU")
    found = {gpu["compute_cap"]: gpu["name"] for gpu in facts["gpus"]}
    least = min(found, key=version)
    seen = ", ".join(f"{capability} ({name})" for capability, name in found.items())
    if version(least) < LEAST:
        return Diagnosis("fail", seen, "bitsandbytes needs 6.0 or more: take this GPU out of the cluster")
    if version(least) < ADVISED:
        return Diagnosis("warn", seen, "bitsandbytes recommends 7.5 or more, and PyTorch builds for CUDA 13 need it")
    return Diagnosis("ok", seen)


def version(capability: str) -> tuple[int, int]:
    """A compute capability, such as "8.6", as numbers; (0, 0) for anything else."""
    major, _, minor = capability.partition(".")
    return (int(major), int(minor or 0)) if major.isdigit() and (minor or "0").isdigit() else (0, 0)
