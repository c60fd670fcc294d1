"""Runs a packaged model in a fresh Python process, as its users will."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster import timing
from cluster.errors import HostsDied


def serve(script: str, files: Mapping[str, bytes], job: str) -> str:
    """Runs a Python script beside a folder of `files`, and returns what it prints.

    Args:
        script: its source; it is given the folder as its argument and `job` on standard input.
        files: path in the folder -> content.
        job: what the script is to do.

    Raises:
        HostsDied: the script fails, and its last line is told; or it does not end in time.
    """
    with tempfile.TemporaryDirectory(prefix="qsweep-serving-") as folder:
        model = Path(folder) / "model"
        for name, content in files.items():
            target = model / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        (Path(folder) / "check.py").write_text(script, encoding="utf-8")
        # Isolated: neither the current folder nor PYTHONPATH may lend it what the package does not list.
        command = [sys.executable, "-I", "check.py", str(model)]
        try:
            done = subprocess.run(
                command, input=job, capture_output=True, encoding="utf-8", errors="replace", cwd=folder,
                timeout=timing.SERVING_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            minutes = f"{timing.SERVING_SECONDS / 60:.0f} minutes"
            raise HostsDied(f"the packaged model cannot be served: it gave no answer within {minutes}") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise HostsDied(f"the packaged model cannot be served: {last}")
    return done.stdout
