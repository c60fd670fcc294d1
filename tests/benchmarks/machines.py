"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from typing import Any

LIBRARIES = ("ray", "torch", "transformers", "peft", "bitsandbytes", "mlflow")


def facts() -> dict[str, Any]:
    """The processor, its cores, the versions of the libraries and the commit of the checkout."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "commit": commit.stdout.strip(),
    }
