"""Toy trials in bare Ray Tune: no tracking, no checkpoints, no scheduler, actors used again. What a driver costs least.

python -m tests.benchmarks.bare_toys TRIALS AT_ONCE RESULT.json
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

POINTS = (3, 9, 27)
STEPS = 27
AT_ONCE = 16


def train(config: dict[str, Any]) -> None:
    """A curve instead of training; reports as often as this project's toy does."""
    from ray import tune

    began = time.time()
    for step in range(1, STEPS + 1):
        if step in POINTS:
            loss = config["rate"] + 1.0 / (1 + step) ** 0.5
            tune.report({"eval_loss": loss, "step": step, "began": began, "at": time.time()})


def measured(trials: int) -> dict[str, Any]:
    """Runs so many trials in a process of their own; the figures."""
    with tempfile.TemporaryDirectory() as place:
        answer = Path(place) / "answer.json"
        with (Path(place) / "err").open("wb") as told:
            words = [sys.executable, "-m", "tests.benchmarks.bare_toys", str(trials), str(answer)]
            code = subprocess.run(words, stdout=told, stderr=told).returncode
        assert code == 0, (Path(place) / "err").read_text()
        figures: dict[str, Any] = json.loads(answer.read_text())
    return figures


def sweep(trials: int) -> dict[str, Any]:
    """Runs so many trials; the figures."""
    import ray
    from ray import tune

    cores = os.cpu_count() or 1
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
    before = cpu_seconds()
    with tempfile.TemporaryDirectory() as place:
        results = tune.Tuner(
            tune.with_resources(train, {"cpu": cores / AT_ONCE}),
            param_space={"rate": tune.loguniform(1e-5, 1e-3)},
            tune_config=tune.TuneConfig(
                num_samples=trials, max_concurrent_trials=AT_ONCE, metric="eval_loss", mode="min", reuse_actors=True
            ),
            run_config=tune.RunConfig(name="bare", storage_path=place, verbose=0),
        ).fit()
        assert not results.num_errors
        # Of the last report of each trial.
        told = [each.metrics for each in results]
        assert len(told) == trials
        lasted = max(each["at"] for each in told) - min(each["began"] for each in told)
    return {
        "trials": trials,
        "slots": AT_ONCE,
        "driver_cpu_ms_per_trial": 1e3 * (cpu_seconds() - before) / trials,
        "wall_ms_per_trial": 1e3 * lasted / trials,
    }


def cpu_seconds() -> float:
    """User and system time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(sweep(int(sys.argv[1]))))
