"""What a sweep of many trials costs its driver, and what a trial's own process takes.

    python -m tests.benchmarks.driver_scale --results DIR

Parts, each of which writes DIR/PART.json and is not measured again when that is there:

- sweep: a toy sweep of 1,000 trials on Ray with a real MLflow server with SQLite
- fifo: the same without early stopping
- bare: as many toy trials in bare Ray Tune, without tracking and checkpoints
- one, many: toy trials, 1 and 64 at once

CPU seconds hold on a busy machine too; wall times and the writer's lag do not. The tables are printed, and written to
DIR/tables.md.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from mlflow_servers import server

from sweeps.record.events import TrialStarted
from sweeps.record.folder import SweepFolder, acknowledged_bytes, noted_by, read_events

from . import machines

TRIALS, SLOTS = 1000, 16
SAMPLE_SECONDS = 1.0
WATCH_SECONDS = 20.0
DEADLINE_SECONDS = 600.0

LASTING = """
name: toy
trainable: toy
training: {step_seconds: 1.5}
search_space: {training.learning_rate: {loguniform: [1.0e-5, 1.0e-3]}}
budget: {steps_per_trial: 2000}
scheduler: {kind: fifo}
"""
"""Trials of which none ends before all have begun."""


def _cpu(processes: list[psutil.Process]) -> float:
    """CPU seconds of these processes together."""
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def sweep(scheduler: str) -> dict[str, Any]:
    """CPU and memory of the driver of a real sweep, and how far the tracking writer is behind."""
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as mlflow:
        words = [f"budget.trials={TRIALS}", f"cluster.slots_per_host={SLOTS}", f"tracking.uri={mlflow.uri}"]
        words.append(f"scheduler.kind={scheduler}")
        running = _launch(Path(place), words)
        driver, folder = psutil.Process(running.pid), SweepFolder(Path(place) / "results" / "toy")
        samples: list[dict[str, float]] = []
        while running.poll() is None:
            threading.Event().wait(SAMPLE_SECONDS)
            if folder.events.exists():
                samples += _sample(driver, folder)
        assert running.returncode == 0, (Path(place) / "err").read_text()
        told = [event for event, _ in read_events(folder.events)]
        begun = next(event.time for event in told if isinstance(event, TrialStarted))
        ended = told[-1].time
        return {
            "driver_cpu_ms_per_trial": 1e3 * (samples[-1]["cpu"] - samples[0]["cpu"]) / TRIALS,
            "wall_ms_per_trial": 1e3 * (ended - begun) / TRIALS,
            "rss_mb_at": {str(count): _rss_at(samples, count) for count in (0, TRIALS // 10, TRIALS)},
            "largest_backlog_events": max(sample["backlog"] for sample in samples),
            "drain_seconds": samples[-1]["time"] - ended,
        }


def _launch(place: Path, words: list[str], file: str = "toy") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sweeps", "launch", file, *words]
    environment = {**os.environ, "QSWEEP_DRAIN_SECONDS": "3600"}
    with (place / "err").open("wb") as told:
        return subprocess.Popen(command, cwd=place, stdout=told, stderr=told, env=environment)


def _sample(driver: psutil.Process, folder: SweepFolder) -> list[dict[str, float]]:
    """Where the sweep is now; nothing when it has just ended. Cheap: lines are counted, not read."""
    try:
        used, memory = sum(driver.cpu_times()[:2]), driver.memory_info().rss / 1e6
    except psutil.NoSuchProcess:
        return []
    acknowledged = acknowledged_bytes(noted_by(folder))
    ended = backlog = offset = 0
    with folder.events.open("rb") as log:
        for line in log:
            offset += len(line)
            backlog += offset > acknowledged
            ended += line.startswith(b'{"type":"trial_ended"')
    return [{"time": time.time(), "cpu": used, "rss": memory, "ended": ended, "backlog": backlog}]


def _rss_at(samples: list[dict[str, float]], ended: int) -> float:
    return next((sample["rss"] for sample in samples if sample["ended"] >= ended), samples[-1]["rss"])


def _report_as_the_toy(config: dict[str, Any]) -> None:
    """A trial of bare Ray Tune, with a curve instead of training; it reports as often as this project's toy does."""
    from ray import tune

    began = time.time()
    for step in (3, 9, 27):
        loss = config["rate"] + 1.0 / (1 + step) ** 0.5
        tune.report({"eval_loss": loss, "step": step, "began": began, "at": time.time()})


def bare() -> dict[str, Any]:
    """Toy trials in bare Ray Tune: no tracking, no checkpoints, actors used again. What a driver costs least."""
    import ray
    from ray import tune

    cores, driver = os.cpu_count() or 1, [psutil.Process()]
    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
    before = _cpu(driver)
    with tempfile.TemporaryDirectory() as place:
        results = tune.Tuner(
            tune.with_resources(_report_as_the_toy, {"cpu": cores / SLOTS}),
            param_space={"rate": tune.loguniform(1e-5, 1e-3)},
            tune_config=tune.TuneConfig(
                num_samples=TRIALS, max_concurrent_trials=SLOTS, metric="eval_loss", mode="min", reuse_actors=True
            ),
            run_config=tune.RunConfig(name="bare", storage_path=place, verbose=0),
        ).fit()
        assert not results.num_errors
        last = [each.metrics for each in results]
    assert len(last) == TRIALS
    lasted = max(each["at"] for each in last) - min(each["began"] for each in last)
    return {
        "driver_cpu_ms_per_trial": 1e3 * (_cpu(driver) - before) / TRIALS,
        "wall_ms_per_trial": 1e3 * lasted / TRIALS,
    }


def processes(at_once: int) -> dict[str, Any]:
    """Memory of trial processes, so many at once, and how long they take to be there."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "toy.yaml").write_text(LASTING)
        words = [f"budget.trials={at_once}", f"cluster.slots_per_host={at_once}"]
        running = _launch(Path(place), words, "./toy.yaml")
        log = Path(place) / "results" / "toy" / "events.jsonl"
        try:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while _begun(log) < at_once:
                assert running.poll() is None and time.monotonic() < deadline, (Path(place) / "err").read_text()
                threading.Event().wait(SAMPLE_SECONDS)
            found = _titled(running.pid, "ray::TrialStub")
            sizes = [each.memory_full_info() for each in found]
            used = _cpu(found)
            at_rest = _while_they_run(running.pid, found)
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(DEADLINE_SECONDS)
        told = [event for event, _ in read_events(log)]
    ready = next(event.time for event in told if event.type == "data_prepared")
    return {
        "alive": len(found),
        "pss_mb": sum(size.pss for size in sizes) / len(sizes) / 1e6,
        "uss_mb": sum(size.uss for size in sizes) / len(sizes) / 1e6,
        "start_cpu_seconds": used / len(found),
        **at_rest,
        "wall_seconds_to_last": max(event.time for event in told if isinstance(event, TrialStarted)) - ready,
    }


def _while_they_run(driver: int, trials: list[psutil.Process]) -> dict[str, float]:
    """CPU milliseconds in a second of the driver, the broker and a trial's process, when no trial begins or ends."""
    watched = {"driver": [psutil.Process(driver)], "broker": _titled(driver, "ray::Broker"), "trial_process": trials}
    before, since = {name: _cpu(of) for name, of in watched.items()}, time.monotonic()
    threading.Event().wait(WATCH_SECONDS)
    lasted = time.monotonic() - since
    return {
        f"{name}_cpu_ms_per_second": 1e3 * (_cpu(of) - before[name]) / lasted / max(1, len(of))
        for name, of in watched.items()
    }


def _begun(log: Path) -> int:
    return log.read_bytes().count(b'{"type":"trial_started"') if log.exists() else 0


def _titled(driver: int, title: str) -> list[psutil.Process]:
    """The driver's Ray processes of this title."""
    found = []
    for child in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            found += [child] if " ".join(child.cmdline()).startswith(title) else []
    return found


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "sweep": partial(sweep, "asha"),
    "fifo": partial(sweep, "fifo"),
    "bare": bare,
    "one": partial(processes, 1),
    "many": partial(processes, 64),
}


def tables(results: Path) -> list[str]:
    """What was measured: a Markdown table for each part."""
    lines, kept = [], {part: machines.read(results / f"{part}.json") or {} for part in PARTS}
    for part, content in kept.items():
        lines += [f"\n{part} (load {content['machine']['load']})", "", "| figure | value |", "|---|---|"]
        for name, value in content["figures"].items():
            shown = f"{value:.3g}" if isinstance(value, float) and value < 1000 else value
            lines.append(f"| {name.replace('_', ' ')} | {shown} |")
    ours, bare = (kept[part]["figures"]["wall_ms_per_trial"] for part in ("fifo", "bare"))
    return [*lines, f"\nfifo: {ours / bare:.2f} times the wall time of bare Ray Tune (goal 1.2)"]


def main(words: list[str] | None = None) -> None:
    """Measures what is not there yet and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmark-results/driver-scale"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    results = given.results.absolute()
    if given.one is not None:
        machines.keep(results / f"{given.one}.json", {"figures": PARTS[given.one]()})
        return
    for part in PARTS:
        if not (results / f"{part}.json").exists():
            # In a process of its own: its memory begins small.
            words = ["--results", str(results), "--one", part]
            subprocess.run([sys.executable, "-m", "tests.benchmarks.driver_scale", *words], check=True)
    lines = tables(results)
    (results / "tables.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
