"""A sweep finishes though nobody reads its output; its resume says how it ended, and refuses changed files."""

from __future__ import annotations

import subprocess
import sys

import chaos_runs as runs
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_sweep_whose_reader_leaves_finishes_and_resume_says_how_and_refuses_changed_files(tmp_path):
    command = [sys.executable, "-m", "sweeps", "launch", "toy", "budget.trials=3", "--json"]
    launched = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    # As `| head -3` does.
    for _ in range(3):
        assert launched.stdout.readline()
    launched.stdout.close()
    assert launched.wait(runs.DEADLINE_SECONDS) == 0
    sweep, uri = tmp_path / "results" / "toy", f"sqlite:///{tmp_path}/mlflow.db"
    found = runs.assert_whole(sweep, uri, 3)

    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    answer = again.answer()
    run_ids = {run.data.tags.get("sweep.trial_key"): run.info.run_id for run in runs.assert_none_running(sweep, uri)}
    assert (answer["trials"], answer["states"], answer["parent_run"]) == (3, found.counts(), run_ids[None])
    best = answer["best"]
    assert (best["trial_key"], best["run_id"]) == (runs.undisturbed_best(sweep), run_ids[best["trial_key"]])

    def refused() -> str:
        """What is said of a changed file; nothing else is."""
        resumed = runs.start(tmp_path, "resume", "results/toy")
        assert resumed.wait() == 2
        assert "Traceback" not in resumed.err.read_text()
        return resumed.err.read_text()

    config = sweep / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"learning_rate": 0.0002', '"learning_rate": 0.001'))
    assert "training.learning_rate was 0.0002 at launch and is 0.001 now" in refused()
    config.write_text(whole)
    events = config.with_name("events.jsonl")
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join([*lines[:2], "{damaged\n", *lines[2:]]))
    assert "is damaged" in refused()
