"""The driver dies, or is asked to stop; `resume` goes on."""

from __future__ import annotations

import os
import signal

import chaos_runs as runs
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]
FIFO = [*runs.TOY, "scheduler.kind=fifo"]


def undisturbed_best(folder, words) -> str:
    """The best trial of the same seed when nothing goes wrong, by the closed form of its curves."""
    from pathlib import Path

    from sweeps import load
    from sweeps.trials import TrialSource
    from trainables import toy

    sweep = load.load(words[0], words[1:], Path(folder))
    source = TrialSource(sweep.config, sweep.space, toy.fingerprint(sweep.config.base))
    planned = list(iter(source.next, None))
    return min(planned, key=lambda trial: toy.floor(trial.spec)).trial_key


@pytest.mark.parametrize("seen", [0, 1], ids=["before the first report", "after a report"])
def test_killed_driver_is_resumed_without_loss(tmp_path, seen):
    words = ["launch", *FIFO, "training.snapshot_every=2"]
    run = runs.start(tmp_path, *words)
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: (sweep / "events.jsonl").exists() and len(runs.record(sweep).trials) > 0, run)
    runs.wait_for(lambda: runs.reports(sweep) >= seen, run)
    runs.kill(run.process.pid)
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    found = runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(sweep)
    assert again.answer()["best"]["trial_key"] == undisturbed_best(tmp_path, FIFO)
    assert {trial.state.value for trial in found.trials.values()} == {"COMPLETED"}


def test_driver_killed_twice_under_asha_is_resumed_without_loss(tmp_path):
    run = runs.start(tmp_path, "launch", *runs.TOY)
    sweep = tmp_path / "results" / "toy"
    for reports in (2, 5):
        runs.wait_for(lambda: (sweep / "events.jsonl").exists() and runs.reports(sweep) >= reports, run)  # noqa: B023
        runs.kill(run.process.pid)
        run = runs.start(tmp_path, "resume", "results/toy")
    assert run.wait() == 0, run.err.read_text()
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(sweep)
    assert run.answer()["best"]["trial_key"] == undisturbed_best(tmp_path, runs.TOY)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_in_order_and_resume_goes_on(tmp_path, number):
    run = runs.start(tmp_path, "launch", *FIFO)
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: (sweep / "events.jsonl").exists() and runs.reports(sweep) >= 1, run)
    os.kill(run.process.pid, number)
    assert run.wait() == 128 + number, run.err.read_text()
    assert "qsweep resume" in run.err.read_text()
    assert "Traceback" not in run.err.read_text()
    statuses = {trial.state.value for trial in runs.record(sweep).trials.values()}
    assert "PAUSED" in statuses
    assert "RUNNING" not in statuses
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(sweep)


def test_resume_of_a_finished_sweep_says_the_same(tmp_path):
    run = runs.start(tmp_path, "launch", "toy", "budget.trials=3")
    assert run.wait() == 0, run.err.read_text()
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    first, second = run.answer(), again.answer()
    assert {key: first[key] for key in ("sweep", "trials", "states")} == {
        key: second[key] for key in ("sweep", "trials", "states")
    }
    assert first["best"]["trial_key"] == second["best"]["trial_key"]
    assert first["best"]["run_id"] == second["best"]["run_id"]
    assert first["parent_run"] == second["parent_run"]


def test_second_driver_on_one_folder_is_refused(tmp_path):
    run = runs.start(tmp_path, "launch", *FIFO)
    sweep = tmp_path / "results" / "toy"
    runs.wait_for(lambda: (sweep / "events.jsonl").exists() and runs.reports(sweep) >= 1, run)
    second = runs.start(tmp_path, "resume", "results/toy")
    assert second.wait() == 2
    assert "another process drives this sweep" in second.err.read_text()
    os.kill(run.process.pid, signal.SIGINT)
    assert run.wait() == 130


def test_changed_configuration_is_refused_with_the_difference(tmp_path):
    run = runs.start(tmp_path, "launch", "toy", "budget.trials=2")
    assert run.wait() == 0
    config = tmp_path / "results" / "toy" / "config.json"
    config.write_text(config.read_text().replace('"learning_rate": 0.0002', '"learning_rate": 0.001'))
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 2
    assert "training.learning_rate was 0.0002 at launch and is 0.001 now" in again.err.read_text()
