"""What a sweep of many trials costs its driver, and what a trial's own process takes.

    python -m tests.benchmarks.driver_scale --results DIR

Parts, each of which writes DIR/PART.json and is not measured again when that is there:

- record: events of so many trials through the journal, without Ray and MLflow
- writer: the same events through the tracking writer to a real MLflow server with SQLite
- sweep: a toy sweep of --trials trials on Ray with that server
- fifo: the same without early stopping
- bare: as many toy trials as `fifo` in bare Ray Tune, without tracking and checkpoints
- processes: toy trials, 1 and 64 at once

CPU seconds hold on a busy machine too; wall times and the writer's lag do not. The tables are printed, and written to
DIR/tables.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from sweeps.record.sweep_record import SweepRecord

sys.path.insert(0, str(Path(__file__).parents[1]))  # helpers of the tests, by their bare names
from mlflow_servers import server

from sweeps.config import load
from sweeps.config.model import SweepConfig
from sweeps.record import digests
from sweeps.record.events import Event, SweepEnded, SweepStarted, TrialEnded, TrialReported, TrialStarted, TrialState
from sweeps.record.folder import SweepFolder, acknowledged_bytes, noted_by, read_events
from sweeps.record.journal import Journal
from sweeps.saved_sweep import as_kept, document
from sweeps.supply.trial_source import TrialSource
from trainables import toy
from trainables.contract import Failure, Report, StepRecord

from . import bare_toys, machines
from .bare_toys import cpu_seconds

POINTS = (3, 9, 27)
"""Steps at which a trial of the parts without Ray reports."""
RECORDED = (1000, 10000)
"""Trials of the part `record`."""
AT_ONCE = (1, 64)
SLOTS = 16
"""Of the part `sweep`."""
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


def toy_sweep(trials: int, uri: str = "sqlite:///mlflow.db") -> load.Sweep:
    """A sweep of the toy with so many trials, none of which is stopped early."""
    words = [f"budget.trials={trials}", f"tracking.uri={uri}", "scheduler.kind=fifo"]
    return load.load("toy", words, Path.cwd())


def events(sweep: load.Sweep, folder: SweepFolder | None = None) -> Iterator[Event]:
    """All that a sweep writes of trials that are trained to their ends; their adapters are written into the folder."""
    config = sweep.config
    yield SweepStarted(time=time.time(), config=as_kept(config), sweep_id="scale-1")
    record = SweepRecord(fingerprints=toy.fingerprint(config.base))
    source = TrialSource(config, sweep.space, record)
    for trial in iter(partial(source.next, record), None):
        key, spec = trial.trial_key, trial.spec.model_copy(update={"steps": POINTS[-1]})
        yield TrialStarted(
            time=time.time(), trial_key=key, number=trial.number, params=dict(trial.params),
            spec=spec.model_dump_json(), point=dict(trial.point or {}),
        )  # fmt: skip
        pack = toy.ToyPack()
        pack.open(0, spec)
        before = 0
        for point in POINTS:
            taken = [pack.step([0])[0] for _ in range(before, point)]
            steps = [step for step in taken if isinstance(step, StepRecord)]
            evaluation, before = pack.evaluate([0])[0], point
            if isinstance(evaluation, Failure) or len(steps) < len(taken):
                yield TrialEnded(time=time.time(), trial_key=key, state=TrialState.DIVERGED, reason="diverged")
                break
            files = pack.adapter(0)
            rows = {"adapter_sha256": digests.of_files(files), **evaluation.document()}
            kept = {f"adapter/{name}": content for name, content in files.items()}
            if folder is not None:
                folder.keep(key, "best", point, kept | {"eval_rows.json": json.dumps(rows).encode()})
            report = Report(
                step=point, metrics=evaluation.metrics, best_step=point, best_metrics=evaluation.metrics,
                history=tuple(steps), tokens=steps[-1].tokens, seconds=steps[-1].seconds, peak_memory_bytes=1,
                trainable_params=1000, time=time.time(),
            )  # fmt: skip
            adapter = f"trials/{key}/best-{point:06d}"
            digest = digests.of_files(files)
            yield TrialReported(time=time.time(), trial_key=key, report=report, adapter=adapter, adapter_sha256=digest)
        else:
            yield TrialEnded(time=time.time(), trial_key=key, state=TrialState.COMPLETED, reason="")
    yield SweepEnded(time=time.time(), reason="finished")


def new_folder(place: Path, config: SweepConfig) -> SweepFolder:
    """An empty folder of a sweep."""
    folder = SweepFolder(place / "sweep")
    folder.path.mkdir(mode=0o700)
    folder.config.write_text(json.dumps(document(config, "scale-1")))
    return folder


def record(trials: int) -> dict[str, Any]:
    """CPU of the journal: each event is checked, written, and folded into the record."""
    with tempfile.TemporaryDirectory() as place:
        sweep = toy_sweep(trials)
        folder = new_folder(Path(place), sweep.config)
        told = list(events(sweep))
        journal = Journal(folder)
        before = cpu_seconds()
        for event in told:
            journal.add(event)
        used = cpu_seconds() - before
        journal.close()
        size = folder.events.stat().st_size
        before = cpu_seconds()
        again = Journal(folder)
        opened = cpu_seconds() - before
        return {
            "trials": trials,
            "cpu_ms_per_trial": 1e3 * used / trials,
            "events_per_trial": sum(1 for _ in read_events(folder.events)) / trials,
            "log_bytes_per_trial": size / trials,
            "open_again_cpu_seconds": opened,
            "trials_read": len(again.record.trials),
        }


def writer(trials: int) -> dict[str, Any]:
    """CPU, requests and time of the tracking writer, which gets all events at once."""
    from sweeps.tracking.client import quiet
    from sweeps.tracking.sink import MlflowSink
    from sweeps.tracking.writer import Writer

    quiet()
    import mlflow.utils.rest_utils as rest

    asked: dict[str, int] = {}
    send = rest._get_http_response_with_retries

    def counted(method: str, url: str, *words: Any, **how: Any) -> Any:
        what = f"{method} {'artifacts' if 'artifacts' in url else url.rpartition('/mlflow/')[2]}"
        asked[what] = asked.get(what, 0) + 1
        return send(method, url, *words, **how)

    rest._get_http_response_with_retries = counted
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as mlflow:
        sweep = toy_sweep(trials, mlflow.uri)
        folder = new_folder(Path(place), sweep.config)
        journal = Journal(folder)
        for event in events(sweep, folder):
            journal.add(event)
        journal.close()
        serving = psutil.Process(mlflow.process.pid) if mlflow.process is not None else None
        behind = Writer(folder, MlflowSink(sweep.config, "scale-1", folder), print, mlflow.uri)
        before, since, served = cpu_seconds(), time.monotonic(), _cpu_of_all(serving)
        behind.start()
        left = behind.drain(10 * DEADLINE_SECONDS)
        lasted = time.monotonic() - since
        return {
            "trials": trials,
            "left": left,
            "cpu_ms_per_trial": 1e3 * (cpu_seconds() - before) / trials,
            "server_cpu_ms_per_trial": 1e3 * (_cpu_of_all(serving) - served) / trials,
            "wall_ms_per_trial": 1e3 * lasted / trials,
            "requests_per_trial": {name: round(count / trials, 2) for name, count in sorted(asked.items())},
            "requests_per_trial_in_all": sum(asked.values()) / trials,
            "wall_ms_per_request": 1e3 * lasted / max(1, sum(asked.values())),
        }


def _cpu_of_all(process: psutil.Process | None) -> float:
    """CPU seconds of a process and those below it."""
    if process is None:
        return 0.0
    return _cpu([each for each in (process, *process.children(recursive=True)) if each.is_running()])


def _cpu(processes: list[psutil.Process]) -> float:
    """CPU seconds of these processes together."""
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def sweep(trials: int, scheduler: str = "asha") -> dict[str, Any]:
    """CPU and memory of the driver of a real sweep, and how far the tracking writer is behind."""
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as mlflow:
        words = [f"budget.trials={trials}", f"cluster.slots_per_host={SLOTS}", f"tracking.uri={mlflow.uri}"]
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
            "trials": trials,
            "slots": SLOTS,
            "events": len(told),
            "log_bytes_per_trial": folder.events.stat().st_size / trials,
            "driver_cpu_ms_per_trial": 1e3 * (samples[-1]["cpu"] - samples[0]["cpu"]) / trials,
            "wall_ms_per_trial": 1e3 * (ended - begun) / trials,
            "rss_mb_at": {str(count): _at(samples, count, "rss") for count in (0, trials // 10, trials)},
            "cpu_seconds_at": {str(count): _at(samples, count, "cpu") for count in (0, trials // 10, trials)},
            "largest_backlog_events": max(sample["backlog"] for sample in samples),
            "drain_seconds": samples[-1]["time"] - ended,
            "samples": samples[:: max(1, len(samples) // 100)],
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


def _at(samples: list[dict[str, float]], ended: int, what: str) -> float:
    return next((sample[what] for sample in samples if sample["ended"] >= ended), samples[-1][what])


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
            found = _titled(running.pid, "ray::SlotTrial")
            sizes = [each.memory_full_info() for each in found]
            used = _cpu(found)
            at_rest = _while_they_run(running.pid, found)
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(DEADLINE_SECONDS)
        told = [event for event, _ in read_events(log)]
    ready = next(event.time for event in told if event.type == "data_prepared")
    starts = [event.time - ready for event in told if isinstance(event, TrialStarted)]
    return {
        "at_once": at_once,
        "alive": len(found),
        "pss_mb": sum(size.pss for size in sizes) / len(sizes) / 1e6,
        "uss_mb": sum(size.uss for size in sizes) / len(sizes) / 1e6,
        "rss_mb": sum(size.rss for size in sizes) / len(sizes) / 1e6,
        "start_cpu_seconds": used / len(found),
        **at_rest,
        "wall_seconds_to_first": min(starts),
        "wall_seconds_to_last": max(starts),
    }


def _while_they_run(driver: int, trials: list[psutil.Process]) -> dict[str, float]:
    """CPU milliseconds in a second of the driver, the broker and a trial's process, when no trial begins or ends."""
    broker = _titled(driver, "ray::Broker")
    watched = {"driver": [psutil.Process(driver)], "broker": broker, "trial_process": trials}
    before = {name: _cpu(of) for name, of in watched.items()}
    since = time.monotonic()
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
        try:
            if " ".join(child.cmdline()).startswith(title):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


PARTS: dict[str, tuple[Callable[[int], dict[str, Any]], tuple[int, ...]]] = {
    "record": (record, RECORDED),
    "writer": (writer, (300,)),
    "sweep": (sweep, (1000,)),
    "fifo": (partial(sweep, scheduler="fifo"), (1000,)),
    "bare": (bare_toys.measured, (1000,)),
    "processes": (processes, AT_ONCE),
}


def tables(results: Path) -> list[str]:
    """What was measured: a Markdown table for each part, without the samples."""
    lines = []
    for part in PARTS:
        for path in sorted(results.glob(f"{part}-*.json"), key=lambda path: int(path.stem.rpartition("-")[2])):
            kept = json.loads(path.read_text())
            lines += [
                f"\n{path.stem} (load {kept['load'][0]:.0f} on {kept['machine']['cores']} cores)",
                "",
                "| figure | value |",
                "|---|---|",
            ]
            for name, value in kept["figures"].items():
                if name == "samples":
                    continue
                shown = f"{value:.3g}" if isinstance(value, float) and value < 1000 else value
                lines.append(f"| {name.replace('_', ' ')} | {shown} |")
    for path in sorted(results.glob("bare-*.json")):
        ours = results / f"fifo-{path.stem.rpartition('-')[2]}.json"
        if ours.exists():
            both = [json.loads(each.read_text())["figures"]["wall_ms_per_trial"] for each in (ours, path)]
            lines.append(f"\n{ours.stem}: {both[0] / both[1]:.2f} times the wall time of bare Ray Tune (goal 1.2)")
    return lines


def main(words: list[str] | None = None) -> None:
    """Measures what is not there yet and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=Path, default=Path("benchmark-results/driver-scale"), help="folder of the figures"
    )
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--trials", type=int, help="of each part, instead of its own")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    results = arguments.results.absolute()
    results.mkdir(parents=True, exist_ok=True)
    if arguments.one is not None:
        measure, size = PARTS[arguments.one][0], arguments.trials
        figures = measure(size)
        machines.keep(results / f"{arguments.one}-{size}.json", {"load": os.getloadavg(), "figures": figures})
        return
    for part in arguments.parts:
        for size in (arguments.trials,) if arguments.trials is not None else PARTS[part][1]:
            if not (results / f"{part}-{size}.json").exists():
                # In a process of its own: its memory begins small.
                words = ["--results", str(results), "--one", part, "--trials", str(size)]
                subprocess.run([sys.executable, "-m", "tests.benchmarks.driver_scale", *words], check=True)
    lines = tables(results)
    (results / "tables.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
