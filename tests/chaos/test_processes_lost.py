"""Hosts, the broker and trial processes die while a sweep runs."""

from __future__ import annotations

import chaos_runs as runs
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]
FIFO = [*runs.TOY, "scheduler.kind=fifo", "training.snapshot_every=2"]
LOSSES = {"Host": "host lost", "Broker": "the broker is lost", "TrialStub": "its process is lost"}
"""Whose process is lost -> what is said of it."""


def test_lost_processes_cost_no_trial_and_double_nothing(tmp_path):
    """Of each kind in turn, and each time trials go on until one reports."""
    run, sweep = runs.launched(tmp_path, *FIFO)
    for name, said in LOSSES.items():
        lost = runs.ray_processes(run, name)
        assert lost, name
        for pid in lost:
            runs.kill(pid)
        runs.wait_for(lambda: said in run.err.read_text(), run)  # noqa: B023
        seen = runs.reports(sweep)
        runs.wait_for(lambda: runs.reports(sweep) > seen, run)  # noqa: B023
    runs.hurry(tmp_path)
    runs.assert_finished(run, sweep, f"sqlite:///{tmp_path}/mlflow.db")
    assert "Traceback" not in run.err.read_text()


KILLER = '''
"""The toy, with one trial that takes its host down at its second step."""
import os, signal
from trainables import toy
from trainables.toy import REQUIRES, check, fingerprint, need, prepare

class Pack(toy.ToyPack):
    def _step(self, slot, seconds):
        if slot.spec.adapter.r == 64 and slot.step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._step(slot, seconds)

def open_pack(base, data, cache):
    return Pack()
'''


def test_trial_that_keeps_killing_its_host_fails_alone(tmp_path):
    words = [
        *FIFO, *runs.variant(tmp_path, "killers", KILLER), "budget.steps_per_trial=9", "searcher.kind=grid",
        "searcher.start_with_default=false",
        "search_space={adapter.r: {choice: [8, 64, 16, 32, 4, 2]}}",
    ]  # fmt: skip
    run = runs.start(tmp_path, "launch", *words)
    sweep = tmp_path / "results" / "toy"
    assert run.wait() == 1, run.err.read_text()
    found = runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(sweep)
    states = {trial.params["r"]: trial.state.value for trial in found.trials.values()}
    assert states == {8: "COMPLETED", 64: "FAILED", 16: "COMPLETED", 32: "COMPLETED", 4: "COMPLETED", 2: "COMPLETED"}
    assert "its host died 3 times" in next(t.reason for t in found.trials.values() if t.params["r"] == 64)
