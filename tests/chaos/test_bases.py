"""Hosts and the driver die in a sweep over several bases: nothing is lost, and every trial trains on its own base."""

from __future__ import annotations

from pathlib import Path

import chaos_runs as runs
import pytest

from sweeps.record.folder import SweepFolder

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(900)]
BASES = [*runs.TOY, "search_space.quantization.scheme={choice: [nf4, fp4, none]}"]


def hosts(run: runs.Run) -> list[int]:
    return [pid for pid in runs.ray_processes(run, "Host") if pid != run.process.pid]


def changes(run: runs.Run) -> int:
    return run.err.read_text().count("host changes its base")


def assert_over(run: runs.Run, sweep: Path) -> None:
    assert run.wait() == 0, run.err.read_text()
    found = runs.record(sweep)
    assert sorted(trial.number for trial in found.trials.values()) == list(range(6))
    assert {trial.state.value for trial in found.trials.values()} <= {"COMPLETED", "STOPPED"}
    runs.assert_every_step_once(sweep)
    runs.assert_every_rung_in_turn(sweep)
    runs.assert_rows_of_reports_are_kept(sweep, found)
    runs.assert_best_is_undisturbed(sweep, found)
    assert list(SweepFolder(sweep).path.glob("trials/*/snapshot-*")) == []


def test_a_host_that_dies_while_it_takes_another_base_is_made_again(tmp_path):
    run, sweep = runs.launched(tmp_path, *BASES)
    (before,) = hosts(run)
    runs.wait_for(lambda: changes(run) >= 1, run)
    runs.wait_for(lambda: any(pid != before for pid in hosts(run)), run)
    runs.kill(next(pid for pid in hosts(run) if pid != before))
    runs.hurry(tmp_path)
    assert_over(run, sweep)


def test_a_driver_that_dies_after_a_change_is_resumed_and_then_again(tmp_path):
    run, sweep = runs.launched(tmp_path, *BASES)
    runs.wait_for(lambda: changes(run) >= 1, run)
    runs.kill(run.process.pid)
    again = runs.start(tmp_path, "resume", "results/toy")
    seen = runs.reports(sweep)
    runs.wait_for(lambda: runs.reports(sweep) > seen, again)
    runs.kill(again.process.pid)
    runs.hurry(tmp_path)
    last = runs.start(tmp_path, "resume", "results/toy")
    assert_over(last, sweep)
