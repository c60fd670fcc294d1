"""A sweep that runs is watched and steered from another terminal."""

from __future__ import annotations

import json
import shutil
from typing import Any

import chaos_runs as runs
import pytest
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.record.events import RequestAnswered, TrialState

# No trial ends before the commands have, on any machine; a step does not take long, because who stops a trial waits
# for it.
SLOW = ["toy", "scheduler.kind=fifo", "budget.trials=2", "budget.steps_per_trial=100000", "training.step_seconds=0.1"]
ONE = ["cluster.slots_per_host=1", "cluster.hosts=1"]


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_sweep_gets_a_host_a_point_and_a_trial_more_and_ends_as_it_is_asked_to_from_outside(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    sweep = tmp_path / "results" / "toy"

    def asked(verb: str, *words: str, code: int = 0) -> tuple[dict[str, Any], str]:
        """What a command answers in JSON, and what it says."""
        done = CliRunner().invoke(app, [verb, str(sweep), *words, "--json"])
        assert done.exit_code == code, (verb, words, done.output)
        return json.loads(done.stdout or "{}"), done.stderr

    run = runs.start(tmp_path, "launch", *SLOW, *ONE)
    try:
        runs.wait_for(lambda: runs.record(sweep).counts() == {"RUNNING": 1}, run)
        assert asked("extend", "cluster.hosts=2")[0]["accepted"]
        runs.wait_for(lambda: runs.record(sweep).counts() == {"RUNNING": 2}, run)
        runs.wait_for(lambda: asked("status")[0]["hosts"]["slots"] == 2, run)  # the news of the host may come later
        assert asked("status")[0]["state"] == "RUNNING"
        assert asked("add", "learning_rate=3e-4")[0]["accepted"]
        assert "did you mean" in asked("add", "learning_rat=3e-4", code=2)[1]

        assert asked("stop", "t01")[0]["accepted"]
        # The point that was asked for has its slot, beyond budget.trials.
        runs.wait_for(lambda: runs.record(sweep).counts() == {"RUNNING": 2, "STOPPED": 1}, run)
        trials = {trial.number: trial for trial in runs.record(sweep).trials.values()}
        assert (trials[1].reason, trials[1].stopped_by_scheduler) == ("stopped by request", False)
        assert trials[2].params["learning_rate"] == 3e-4
        assert asked("stop", "t01")[0]["message"] == "t01 is STOPPED already"

        assert asked("stop")[0]["accepted"]
        assert run.wait() == 130, run.err.read_text()
    finally:
        runs.kill_started()
    assert "go on with" in run.err.read_text()
    answers = [event.is_accepted for event in runs.events(sweep) if isinstance(event, RequestAnswered)]
    assert answers == [True, True, False, True, True, True]
    assert run.answer()["states"] == {"PAUSED": 2, "STOPPED": 1}
    assert runs.record(sweep).trials[trials[1].trial_key].state is TrialState.STOPPED
    tracked = runs.assert_none_running(sweep, f"sqlite:///{tmp_path}/mlflow.db")
    assert {each.info.status for each in tracked if each.data.tags["sweep.state"] == "PAUSED"} == {"KILLED"}
    assert asked("status")[0]["state"] == "INTERRUPTED"
    asked("stop", code=2)
    runs.assert_every_step_once(sweep)
