"""Sweeps driven through the command line and disturbed, and what must hold of each at its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from sweeps import saved_sweep
from sweeps.record.events import BaseEvaluated, Event, TrialEnded, TrialReported, TrialStarted, TrialState
from sweeps.record.folder import SweepFolder, read_events
from sweeps.record.selection import choose
from sweeps.record.sweep_record import SweepRecord
from sweeps.supply.trial_source import TrialSource
from trainables import toy
from trainables.specs import TrialSpec

DEADLINE_SECONDS = 180.0
TOY = [
    "toy", "trainable=paced.toy", "budget.trials=6", "cluster.slots_per_host=2", "training.step_seconds=0.15"
]  # fmt: skip
"""A sweep that is slow enough to be disturbed, until `hurry`."""
PACED = '''
"""The toy, which notes the steps, and whose steps and evaluations take no time once somebody is in a hurry."""
from pathlib import Path
from trainables import toy
from trainables.contract import StepRecord
from trainables.toy import REQUIRES, check, fingerprint, need, prepare

HURRY = Path(__file__).with_name("hurry")

class Pack(toy.ToyPack):
    def step(self, slots):
        if HURRY.exists():
            return {slot: self._step(self._slots[slot], 0.0) for slot in slots}
        taken = super().step(slots)
        for each in taken.values():
            if isinstance(each, StepRecord):
                HURRY.with_name(f"step-{each.step}").touch()
        return taken

    def evaluate(self, slots):
        if HURRY.exists():
            return {slot: self._evaluate(self._slots[slot]) for slot in slots}
        return super().evaluate(slots)

def open_pack(base, data, cache):
    return Pack()
'''
HEAVY = '''
"""The toy, with adapters and snapshots that weigh something."""
from trainables import toy
from trainables.toy import REQUIRES, check, fingerprint, need, prepare

class Pack(toy.ToyPack):
    def snapshot(self, slot):
        return super().snapshot(slot) + b" " * 2_000_000
    def adapter(self, slot):
        return {**super().adapter(slot), "weights": bytes(1_000_000)}

def open_pack(base, data, cache):
    return Pack()
'''


def heavy(folder: Path) -> list[str]:
    """The toy with adapters of 1 MB and snapshots of 2 MB, as overrides of a sweep that runs in `folder`."""
    return variant(folder, "heavies", HEAVY)


def variant(folder: Path, name: str, code: str, of: str = "toy") -> list[str]:
    """A toy, or another trainable, of the caller's own as the trainable of a sweep that runs in `folder`."""
    (folder / name).mkdir()
    (folder / name / f"{of}.py").write_text(code)
    return [f"trainable={name}.{of}"]


def hurry(folder: Path) -> None:
    """From now on trials of `TOY` take no time, in sweeps that run and in those that begin: no fault is to come."""
    (folder / "paced" / "hurry").touch()


def has_taken(folder: Path, step: int) -> bool:
    """Whether a trial of `TOY` has taken this step, before `hurry`: the log does not know it before the next report."""
    return (folder / "paced" / f"step-{step}").exists()


@dataclass
class Run:
    """A running `qsweep launch` or `qsweep resume`."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(DEADLINE_SECONDS)

    def answer(self) -> dict[str, Any]:
        """The JSON object on the last line of its stdout."""
        return json.loads(self.out.read_text().strip().splitlines()[-1])


_started: list[Run] = []


def start(folder: Path, *words: str, **environment: str) -> Run:
    """Starts `qsweep WORDS` in a folder."""
    number = len(list(folder.glob("*.err")))
    out, err = folder / f"{number}.out", folder / f"{number}.err"
    command = [sys.executable, "-m", "sweeps", *words, "--json"]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            command, cwd=folder, stdout=stdout, stderr=stderr, env={**os.environ, **environment}, start_new_session=True
        )
    run = Run(process, out, err)
    _started.append(run)
    return run


def kill_started() -> None:
    """Kills what still runs of what `start` has started."""
    while _started:
        run = _started.pop()
        if run.process.poll() is None:
            kill_all(run)
            run.process.wait(DEADLINE_SECONDS)


def wait_for(condition: Callable[[], bool], run: Run | None = None) -> None:
    """Waits until something is true; fails with the run's stderr when it is not in time, or the run ended before."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        ended = run is not None and run.process.poll() is not None  # before the look: what it did last counts
        if condition():
            return
        if ended or time.monotonic() > deadline:
            told = run.err.read_text() if run is not None else ""
            raise AssertionError(f"{'the run ended first' if ended else 'never came true'}:\n{told}")
        threading.Event().wait(0.05)


def record(sweep: Path) -> SweepRecord:
    """The sweep as its events tell it."""
    found = SweepRecord()
    for event in events(sweep):
        found = found.apply(event)
    return found


def events(sweep: Path) -> list[Event]:
    """What has happened so far; nothing before the sweep has made its log."""
    log = sweep / "events.jsonl"
    return [event for event, _ in read_events(log)] if log.exists() else []


def reports(sweep: Path) -> int:
    """How many reports there are so far."""
    return sum(isinstance(event, TrialReported) for event in events(sweep))


def launched(folder: Path, *words: str, reports_first: int = 1, **environment: str) -> tuple[Run, Path]:
    """A sweep of the toy that was launched in a folder and has reported so often, and the sweep's folder."""
    run, sweep = start(folder, "launch", *words, **environment), folder / "results" / "toy"
    wait_for(lambda: reports(sweep) >= reports_first, run)
    return run, sweep


def kill(pid: int) -> None:
    """Kills a process without a word, and waits until it is gone."""
    process = psutil.Process(pid)
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=30)


def kill_all(run: Run) -> None:
    """Kills a run and all that it started, as when their machine is lost: nobody is left to write a file."""
    driver = psutil.Process(run.process.pid)
    driver.suspend()  # so that it starts nothing more
    processes = [driver, *driver.children(recursive=True)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=30)


def processes(run: Run) -> list[tuple[psutil.Process, str]]:
    """All that the run has started and that lives, with its command line."""
    found = []
    for child in psutil.Process(run.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            found.append((child, " ".join(child.cmdline())))
    return found


def ray_processes(run: Run, name: str) -> list[int]:
    """Process ids of the sweep's Ray actors whose title begins with `ray::NAME`."""
    return [child.pid for child, words in processes(run) if words.startswith(f"ray::{name}")]


def assert_finished(run: Run, sweep: Path, uri: str, trials: int = 6) -> SweepRecord:
    """The run ended well, and its trials of the toy are complete, with each step once; see `assert_whole`."""
    assert run.wait() == 0, run.err.read_text()
    found = assert_whole(sweep, uri, trials)
    assert_every_step_once(sweep)
    assert {trial.state.value for trial in found.trials.values()} == {"COMPLETED"}
    return found


def assert_whole(sweep: Path, uri: str, trials: int) -> SweepRecord:
    """Nothing is lost, nothing doubled, nothing left running, and the best trial is the best."""
    from mlflow import MlflowClient

    found = record(sweep)
    stories = "\n".join(map(str, found.trials.values()))
    counted = [trial for trial in found.trials.values() if trial.state is not TrialState.INFEASIBLE]
    assert len(counted) == trials, stories
    assert all(trial.state.is_final for trial in found.trials.values()), stories

    client = MlflowClient(uri)
    runs = assert_none_running(sweep, uri)
    children = [run for run in runs if "sweep.trial_key" in run.data.tags]
    (parent,) = (run for run in runs if run not in children)
    began = {event.trial_key for event in events(sweep) if isinstance(event, TrialStarted)}
    assert sorted(run.data.tags["sweep.trial_key"] for run in children) == sorted(began)
    logged = expected_points(sweep)
    for run in children:
        key = run.data.tags["sweep.trial_key"]
        assert run.data.tags["sweep.state"] == found.trials[key].state
        for metric in ("train_loss", "eval_loss"):
            history = client.get_metric_history(run.info.run_id, metric)
            points = [(point.step, point.value) for point in sorted(history, key=lambda point: point.step)]
            assert points == logged[key][metric], f"{key} {metric}"
    # Where the sweep starts from is evaluated once, whatever becomes of drivers, brokers and hosts.
    base = [event.metrics["eval_loss"] for event in events(sweep) if isinstance(event, BaseEvaluated)]
    assert len(base) <= 1
    assert [point.value for point in client.get_metric_history(parent.info.run_id, "base_eval_loss")] == base
    assert_best_is_undisturbed(sweep, found)
    assert_rows_of_reports_are_kept(sweep, found)
    return found


def assert_rows_of_reports_are_kept(sweep: Path, found: SweepRecord) -> None:
    """Trials can be compared at each report point, whatever was killed between a report's rows and the log."""
    for key, trial in found.trials.items():
        for step, metrics in trial.evals:
            kept = SweepFolder(sweep).kept(key, "rows", step) / "eval_rows.json"
            assert json.loads(kept.read_bytes())["eval_loss"] == metrics["eval_loss"], trial


def assert_none_running(sweep: Path, uri: str) -> list[Any]:
    """The sweep's runs in MLflow, none of which is RUNNING."""
    from mlflow import MlflowClient

    sweep_id = json.loads((sweep / "config.json").read_text())["sweep_id"]
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = list(client.search_runs(experiments, f"tags.`sweep.id` = '{sweep_id}'", max_results=500))
    assert [run.info.run_name for run in runs if run.info.status == "RUNNING"] == []
    return runs


def expected_points(sweep: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Trial key -> metric -> (step, value) of every point, from the event log."""
    points: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for key in record(sweep).trials:
        points[key] = {"train_loss": [], "eval_loss": []}
    for event in events(sweep):
        if isinstance(event, TrialReported):
            mine = points[event.trial_key]
            mine["eval_loss"].append((event.step, event.metrics["eval_loss"]))
            mine["train_loss"] += [(step.step, step.train_loss) for step in event.history]
        if isinstance(event, TrialEnded):
            points[event.trial_key]["train_loss"] += [(step.step, step.train_loss) for step in event.history]
    return points


def assert_every_step_once(sweep: Path) -> None:
    """Every trial's history runs from step 1 to its last without a gap, and says what the toy's curve says."""
    specs = {
        event.trial_key: TrialSpec.model_validate_json(event.spec)
        for event in events(sweep)
        if isinstance(event, TrialStarted)
    }
    for key, metrics in expected_points(sweep).items():
        steps = [step for step, _ in metrics["train_loss"]]
        assert steps == list(range(1, len(steps) + 1)), key
        assert metrics["train_loss"] == [(step, toy.loss_at(specs[key], step)) for step in steps], key


def assert_every_rung_in_turn(sweep: Path) -> None:
    """Every trial reported at each of its report points as far as it came, and skipped none."""
    config = saved_sweep.load(SweepFolder(sweep))[0].config
    points = list(config.scheduler.points(config.budget.steps_per_trial))
    for key, metrics in expected_points(sweep).items():
        reached = [step for step, _ in metrics["eval_loss"]]
        assert reached == points[: len(reached)], key


def undisturbed_best(sweep: Path) -> str | None:
    """The best trial of the same seed when nothing goes wrong, by the closed form of the toy's curves."""
    resolved, _ = saved_sweep.load(SweepFolder(sweep))
    if not resolved.config.trainable.endswith("toy"):
        return None
    record = SweepRecord(fingerprints=toy.fingerprint(resolved.config.base))
    source = TrialSource(resolved.config, resolved.space, record)
    return min(iter(partial(source.next, record), None), key=lambda trial: toy.floor(trial.spec)).trial_key


def assert_best_is_undisturbed(sweep: Path, found: SweepRecord) -> None:
    """Of a sweep that ran to its end with no trial broken, the best trial is that of the undisturbed sweep."""
    states = {trial.state for trial in found.trials.values()}
    if (
        found.ended is None
        or found.ended.reason != "finished"
        or not states <= {TrialState.COMPLETED, TrialState.STOPPED}
    ):
        return
    winner = choose(found).winner
    expected = undisturbed_best(sweep)
    assert winner is not None
    assert expected in (None, winner.trial_key)
