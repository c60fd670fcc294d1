"""How long the commands take that start nothing, and a launch to its first optimizer step: cold, and warm.

    python -m tests.benchmarks.startup --results DIR [--runs 5]

Cold: an empty cache of bases and tokens, so the base is quantised and the rows are tokenised; the operating system's
own cache of files is as it is. Warm: what the cold launch left. The parts come from the sweep's event log.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sweeps.record.folder import read_events

from . import machines, speed_page

COMMANDS = (["--help"], ["ls"], ["validate", "quickstart"], ["plan", "quickstart"])
LAUNCH = ["launch", "quickstart", "budget.trials=1", "budget.steps_per_trial=2"]
GOAL = 8.0
"""Seconds to the first optimizer step, warm."""


def timed(words: list[str]) -> float:
    """Seconds of a command."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sweeps", *words], check=True, capture_output=True)
    return time.perf_counter() - started


def first_step(cache: Path) -> dict[str, float]:
    """Launches the quickstart with this cache: seconds to the end of the first optimizer step, and of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "QSWEEP_CACHE": str(cache), "PYTHONPATH": str(Path.cwd())}
        started = time.time()
        subprocess.run(
            [sys.executable, "-m", "sweeps", *LAUNCH], cwd=folder, env=environment, check=True, capture_output=True
        )
        [log] = Path(folder).glob("results/*/events.jsonl")
        events: list[Any] = [event for event, _ in read_events(log)]
    began = {event.type: event for event in reversed(events)}  # the first one of each type
    at = {
        "the sweep is recorded": began["sweep_started"].time,
        "Ray runs, hosts are asked for": began["hosts_started"].since,
        "hosts have the base and the rows": began["hosts_started"].time,
        "the data is recorded": began["data_prepared"].time,
        "the base is evaluated": began["base_evaluated"].time,
        "a trial holds a slot": began["trial_started"].time,
        "first optimizer step": began["trial_reported"].history[0].time,
    }
    return {name: time_ - started for name, time_ in sorted(at.items(), key=lambda item: item[1])}


def measured(runs: int) -> dict[str, Any]:
    """All figures."""
    commands = {" ".join(command): [timed(command) for _ in range(runs + 1)][1:] for command in COMMANDS}
    cold, warm = [], []
    for _ in range(max(1, runs // 2)):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(first_step(Path(cache)))
            warm.append(first_step(Path(cache)))
    return {"runs": runs, "commands": commands, "cold": cold, "warm": warm, "goal": GOAL}


def main(words: list[str] | None = None) -> None:
    """Measures, unless that was done, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmark-results/startup"))
    parser.add_argument("--runs", type=int, default=5, help="of each command; half as many launches")
    arguments = parser.parse_args(words)
    path = arguments.results / "startup.json"
    kept = machines.read(path) or machines.keep(path, measured(arguments.runs))
    print("\n".join(speed_page.startup(kept)))


if __name__ == "__main__":
    main()
