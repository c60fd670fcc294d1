"""A sweep that has finished is resumed: as it was, and with files that were changed meanwhile."""

from __future__ import annotations

import chaos_runs as runs
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]


def test_resume_of_a_finished_sweep_says_the_same_and_refuses_changed_files(tmp_path):
    run = runs.start(tmp_path, "launch", "toy", "budget.trials=3")
    assert run.wait() == 0, run.err.read_text()
    again = runs.start(tmp_path, "resume", "results/toy")
    assert again.wait() == 0, again.err.read_text()
    first, second = run.answer(), again.answer()
    for key in ("sweep", "trials", "states", "parent_run"):
        assert first[key] == second[key]
    for key in ("trial_key", "run_id"):
        assert first["best"][key] == second["best"][key]

    def refused() -> str:
        """What is said of a changed file; nothing else is."""
        resumed = runs.start(tmp_path, "resume", "results/toy")
        assert resumed.wait() == 2
        assert "Traceback" not in resumed.err.read_text()
        return resumed.err.read_text()

    config = tmp_path / "results" / "toy" / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"learning_rate": 0.0002', '"learning_rate": 0.001'))
    assert "training.learning_rate was 0.0002 at launch and is 0.001 now" in refused()
    config.write_text(whole)
    events = config.with_name("events.jsonl")
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join([*lines[:2], "{damaged\n", *lines[2:]]))
    assert "is damaged" in refused()
