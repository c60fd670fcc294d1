"""What this machine trains on, and how much memory is free there. Neither Ray nor torch is needed to ask."""

from __future__ import annotations

import shutil
import subprocess

import psutil

from trainables.contract import Device

MEMORY_SHARE = 0.85
"""Part of the free memory that slots may be planned into."""


def gpus() -> int:
    """GPUs of this machine that nvidia-smi lists."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return len(listed.stdout.splitlines()) if listed.returncode == 0 else 0


def free_bytes(device: Device, gpu: str | None = None) -> int:
    """Memory that nobody uses yet: of the GPU `gpu` (an index or UUID), or of the machine."""
    if device == "cpu":
        return int(psutil.virtual_memory().available)
    query = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", f"--id={gpu or 0}"]
    mebibytes = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    return int(mebibytes.split()[0]) * 2**20
