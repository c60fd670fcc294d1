"""How long the commands take that start nothing."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = (["--help"], ["ls"], ["validate", "quickstart"], ["plan", "quickstart"])


def main(runs: int) -> None:
    """Prints the median wall time of each command."""
    print(f"start-up, median of {runs} runs")
    for command in COMMANDS:
        seconds = [_time([sys.executable, "-m", "sweeps", *command]) for _ in range(runs + 1)][1:]
        print(f"  qsweep {' '.join(command):22} {statistics.median(seconds):.2f} s  (worst {max(seconds):.2f} s)")


def _time(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started
