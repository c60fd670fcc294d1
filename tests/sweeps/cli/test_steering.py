"""A sweep that runs is watched and steered from another terminal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chaos_runs as runs
import pytest

from sweeps.record.events import RequestAnswered, TrialState

# Two trials side by side that no scheduler stops. They outlast the commands on any machine, and a step does not take
# long, because who stops a trial waits for it.
SLOW = [
    "toy", "scheduler.kind=fifo", "budget.trials=2", "budget.steps_per_trial=10000", "cluster.slots_per_host=2",
    "training.step_seconds=0.3",
]  # fmt: skip


def qsweep(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    run = runs.start(folder, *words)
    return subprocess.CompletedProcess(words, run.wait(), run.out.read_text(), run.err.read_text())


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def launch(tmp_path: Path, empty_database: Path) -> Iterator[Callable[..., runs.Run]]:
    """Starts `qsweep WORDS` in the test's folder, which has a tracking database: making one takes seconds."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    started: list[runs.Run] = []

    def start(*words: str) -> runs.Run:
        started.append(runs.start(tmp_path, *words))
        return started[-1]

    yield start
    for run in started:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait(60)


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_hosts_are_taken_and_given_back_and_a_trial_and_then_the_sweep_are_stopped_from_outside(
    tmp_path: Path, launch: Callable[..., runs.Run]
) -> None:
    run = launch("launch", *SLOW, "budget.trials=3", "cluster.slots_per_host=1", "cluster.hosts=1")
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: runs.record(sweep).counts() == {"RUNNING": 1}, run)

    def extend(hosts: int) -> None:
        assert qsweep(tmp_path, "extend", "toy", f"cluster.hosts={hosts}").returncode == 0
        runs.wait_for(lambda: hosts_of(sweep) == hosts, run)

    extend(2)
    runs.wait_for(lambda: runs.record(sweep).counts() == {"RUNNING": 2}, run)
    status = qsweep(tmp_path, "status", "toy")
    assert answer(status)["state"] == "RUNNING"
    assert answer(status)["hosts"]["slots"] == 2
    extend(1)
    # The trial that moved waits for a slot; it is no loss.
    assert runs.record(sweep).counts() == {"RUNNING": 2}
    runs.wait_for(lambda: "is wanted" in run.err.read_text(), run)  # the number may be known before the line is
    extend(2)

    key = next(trial.trial_key for trial in runs.record(sweep).trials.values() if trial.number == 1)
    stopped = qsweep(tmp_path, "stop", "toy", "t01")
    assert (stopped.returncode, answer(stopped)["accepted"]) == (0, True)
    runs.wait_for(lambda: runs.record(sweep).trials[key].state is TrialState.STOPPED, run)
    trial = runs.record(sweep).trials[key]
    assert (trial.reason, trial.stopped_by_scheduler) == ("stopped by request", False)
    again = qsweep(tmp_path, "stop", "toy", "t01")
    assert again.returncode == 2
    assert "refused: t01 is STOPPED" in again.stderr

    assert qsweep(tmp_path, "stop", str(sweep)).returncode == 0
    assert run.wait() == 130
    assert "go on with" in run.err.read_text()
    told = answered(sweep)
    assert [event.is_accepted for event in told] == [True, True, True, True, False, True]
    assert answer(qsweep(tmp_path, "status", "toy"))["state"] == "INTERRUPTED"
    assert qsweep(tmp_path, "stop", "toy").returncode == 2

    following = launch("resume", str(sweep))
    runs.wait_for(lambda: runs.record(sweep).drivers == 2 and hosts_of(sweep) == 2, following)
    # The trial that was stopped is not taken up again: the third one has its slot.
    runs.wait_for(lambda: runs.record(sweep).counts() == {"RUNNING": 2, "STOPPED": 1}, following)
    os.killpg(following.process.pid, signal.SIGINT)  # a terminal sends it to all processes of the command
    assert_ended_in_order(following, sweep, f"sqlite:///{tmp_path}/mlflow.db")
    assert runs.record(sweep).trials[key] == trial
    # Nor are the requests answered twice; Ctrl-C was one more.
    assert (answered(sweep)[:-1], answered(sweep)[-1].is_accepted) == (told, True)
    runs.assert_every_step_once(sweep)


def answered(sweep: Path) -> list[RequestAnswered]:
    return [event for event in runs.events(sweep) if isinstance(event, RequestAnswered)]


def assert_ended_in_order(run: runs.Run, sweep: Path, uri: str) -> None:
    """After Ctrl-C, with trials that go on."""
    assert run.wait() == 130, run.err.read_text()
    assert "Traceback" not in run.err.read_text()
    assert runs.record(sweep).ended.reason == "interrupted"
    assert run.answer()["states"]["PAUSED"] >= 1
    found: dict[str, set[str]] = {}
    for each in runs.assert_none_running(sweep, uri):
        found.setdefault(each.data.tags["sweep.state"], set()).add(each.info.status)
    assert set().union(*found.values()) <= {"FINISHED", "KILLED"}
    assert (found["PAUSED"], found["interrupted"]) == ({"KILLED"}, {"KILLED"})


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_point_and_a_trial_more_are_asked_for_from_outside_and_survive_a_kill(
    tmp_path: Path, launch: Callable[..., runs.Run]
) -> None:
    run = launch("launch", *SLOW, "budget.trials=1")
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: len(runs.record(sweep).trials) == 1, run)

    added = qsweep(tmp_path, "add", "toy", "learning_rate=3e-4")
    assert (added.returncode, answer(added)["accepted"]) == (0, True)
    # Beyond budget.trials, on the slot that was free.
    runs.wait_for(lambda: len(runs.record(sweep).trials) == 2, run)
    (trial,) = (trial for trial in runs.record(sweep).trials.values() if trial.number == 1)
    assert trial.params["learning_rate"] == 3e-4
    again = qsweep(tmp_path, "add", "toy", "training.learning_rate=3e-4")
    assert (again.returncode, "this point is t01 already" in again.stderr) == (0, True)
    wrong = qsweep(tmp_path, "add", "toy", "learning_rat=3e-4")
    assert (wrong.returncode, "did you mean" in wrong.stderr) == (2, True)
    extended = qsweep(tmp_path, "extend", "toy", "budget.trials=2")
    assert (extended.returncode, answer(extended)["accepted"]) == (0, True)
    refused = qsweep(tmp_path, "extend", "toy", "budget.trials=0")
    assert (
        refused.returncode,
        "refused: budget.trials: 0: must be a whole number of at least 1" in refused.stderr,
    ) == (2, True)

    os.killpg(run.process.pid, signal.SIGKILL)
    run.process.wait(60)
    following = launch("resume", str(sweep))
    runs.wait_for(lambda: runs.record(sweep).drivers == 2 and len(runs.record(sweep).trials) == 2, following)
    runs.wait_for(lambda: qsweep(tmp_path, "stop", "toy", "t01").returncode == 0, following)
    # Two trials count: t00, and the one that takes the slot of the point that somebody had asked for.
    runs.wait_for(lambda: len(runs.record(sweep).trials) == 3, following)
    assert qsweep(tmp_path, "stop", "toy").returncode == 0
    assert following.wait() == 130
    assert len(runs.record(sweep).added) == 1


def hosts_of(sweep: Path) -> int | None:
    known = runs.record(sweep).hosts
    return None if known is None else known.hosts
