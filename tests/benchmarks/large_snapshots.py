"""Whether large snapshots hold up the other trials of a sweep, on a real Ray.

    python -m tests.benchmarks.large_snapshots --results DIR

Runs 36 toy trials at once, in two sweeps, one after the other: in one, 32 trials have snapshots of 256 MB at each
report; in the other, no trial has. Prints how long after the end of an evaluation the driver wrote the report: of the 4
trials with small snapshots, and of the others. Needs 12 GB of memory, and 17 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sweeps.record.events import TrialReported, TrialStarted
from sweeps.record.folder import SweepFolder, read_events

from . import machines

SWEEP = """
name: large
trainable: own.large_snapshots
training: {step_seconds: 1.0, snapshot_every: 1h}
search_space: {adapter.r: {choice: [4, 8]}}
searcher: {kind: random, points: POINTS}
scheduler: {kind: fifo}
budget: {trials: 36, steps_per_trial: 60}
cluster: {slots_per_host: 36}
tracking: {uri: "sqlite:///mlflow.db"}
"""
PARTS = {"small": 36, "large": 4}
"""Part -> number of trials with small snapshots."""


def sweep(small: int) -> dict[str, Any]:
    """Seconds from an evaluation's end to its report in the event log, and the time of the sweep."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        points = [{"adapter.r": 4 if place < small else 8} for place in range(36)]
        (Path(place) / "large.yaml").write_text(SWEEP.replace("POINTS", str(points)))
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run(
            [sys.executable, "-m", "sweeps", "launch", "./large.yaml"], cwd=place, env=environment, check=True
        )
        folder = SweepFolder(Path(place) / "results" / "large")
        told = [event for event, _ in read_events(folder.events)]
    ranks = {event.trial_key: event.params["r"] for event in told if isinstance(event, TrialStarted)}
    lags: dict[str, list[float]] = {"small": [], "large": []}
    for event in told:
        if isinstance(event, TrialReported):
            lags["large" if ranks[event.trial_key] == 8 else "small"].append(event.time - event.evaluated_time)
    begun = next(event.time for event in told if isinstance(event, TrialStarted))
    medians = {f"{kind}_snapshots_median_seconds": statistics.median(each) for kind, each in lags.items() if each}
    longest = {f"{kind}_snapshots_longest_seconds": max(each) for kind, each in lags.items() if each}
    return {**medians, **longest, "reports": sum(map(len, lags.values())), "wall_seconds": told[-1].time - begun}


def main(words: list[str] | None = None) -> None:
    """Measures what is not there yet and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmark-results/large-snapshots"))
    results = parser.parse_args(words).results.absolute()
    for part, small in PARTS.items():
        kept = machines.read(results / f"{part}.json") or machines.keep(
            results / f"{part}.json", {"figures": sweep(small)}
        )
        for name, value in kept["figures"].items():
            print(f"{part}: {name.replace('_', ' ')} {value:.3g}")


if __name__ == "__main__":
    main()
