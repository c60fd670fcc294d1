"""Whoever reads a sweep's output leaves."""

from __future__ import annotations

import subprocess
import sys

import chaos_runs as runs
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_sweep_whose_output_nobody_reads_any_more_ends_as_it_would_have(tmp_path):
    command = [sys.executable, "-m", "sweeps", "launch", *runs.TOY, "budget.trials=3", "--json"]
    sweep = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    # As `| head -3` does.
    for _ in range(3):
        assert sweep.stdout.readline()
    sweep.stdout.close()
    assert sweep.wait(runs.DEADLINE_SECONDS) == 0
    runs.assert_whole(tmp_path / "results" / "toy", f"sqlite:///{tmp_path}/mlflow.db", 3)
