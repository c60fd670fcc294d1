"""`qsweep plan FILE --calibrate` trains for real, and says of it what its reader needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_sweeps

QUIET = ("HF_HUB_DISABLE_PROGRESS_BARS", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY", "TQDM_DISABLE")
"""What quiet the libraries in other tests: here the command does it."""


@pytest.mark.slow
@pytest.mark.timeout(660)
def test_a_calibration_tells_the_time_without_the_libraries_output(tmp_path: Path) -> None:
    tiny_sweeps.write(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name not in QUIET}
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", "plan", "sweep.yaml", "--calibrate", "--json"],
        cwd=tmp_path,
        env={**environment, "QSWEEP_RATES": str(tmp_path / "rates.json")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith("calibrating: ")
    assert second.startswith("plan: "), done.stderr
    assert "Warning" not in done.stderr
    assert json.loads(done.stdout)["seconds"] is not None
