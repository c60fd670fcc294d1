"""What a measurement was made on, and how its figures are kept."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster import devices

LIBRARIES = ("ray", "torch", "transformers", "peft", "bitsandbytes", "mlflow")


def facts() -> dict[str, Any]:
    """The processor, its cores, the load, the versions of the libraries and the commit of the checkout."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "processor": devices.name("cpu"),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "commit": commit.stdout.strip(),
    }


def keep(path: Path, figures: dict[str, Any]) -> dict[str, Any]:
    """Writes figures with the machine's facts as a whole file; returns what it wrote."""
    content = {"machine": facts(), **figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.rename(path)
    return content


def read(path: Path) -> dict[str, Any] | None:
    """What `keep` wrote, or None."""
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def forget_peak() -> None:
    """Begins `peak_bytes` anew (on a CPU: proc(5), clear_refs, since Linux 4.0)."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Most memory since `forget_peak`: of the GPU, or of this process on a CPU (proc(5), VmHWM)."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
