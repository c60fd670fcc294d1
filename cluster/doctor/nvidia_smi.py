"""What nvidia-smi tells of this machine's GPUs. Nothing has to be free for it, and no torch is loaded."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path
from typing import Any

from cluster.doctor.contract import Facts

FIELDS = ("index", "name", "driver_version", "compute_cap", "memory.free", "memory.total")
"""As nvidia-smi calls them; memory is in MiB."""
SECONDS = 30.0
HUNG = "nvidia-smi hangs when the driver does: look for Xid errors in `dmesg`, and restart the machine"


def look() -> Facts:
    """The GPUs, or why nvidia-smi does not tell them.

    `gpus` is a list of mappings of `FIELDS`; `error` is set when nvidia-smi fails; `has_device` says whether the
    kernel's driver shows a GPU.
    """
    facts: dict[str, Any] = {"gpus": [], "error": None, "has_device": Path("/dev/nvidiactl").exists()}
    query = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True)
    except FileNotFoundError:
        return facts
    except OSError as error:
        return {**facts, "error": str(error)}
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()
        return {**facts, "error": said[0] if said else f"exit code {done.returncode}"}
    return {**facts, "gpus": parsed(done.stdout)}


def parsed(table: str) -> list[dict[str, str]]:
    """The rows of nvidia-smi's answer as mappings of `FIELDS`."""
    rows = csv.reader(table.splitlines(), skipinitialspace=True)
    return [dict(zip(FIELDS, row, strict=True)) for row in rows if len(row) == len(FIELDS)]
