"""What goes wrong in single trials of a sweep ends those trials, each with its own state, and no other."""

from __future__ import annotations

import chaos_runs as runs
import pytest

from cluster.deaths import GUILTY_AFTER

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]
FAULTY = '''
"""The toy, three trials of which go wrong at their fifth step, each in its own way."""
from trainables import toy
from trainables.contract import Failure
from trainables.slot_failures import isolated
from trainables.toy import REQUIRES, check, fingerprint, need, prepare

class Pack(toy.ToyPack):
    def step(self, slots):
        return isolated(list(slots), self._steps, lambda: None)

    def _steps(self, slots):
        for slot in slots:
            if self._slots[slot].step == 4 and self._slots[slot].spec.adapter.r == 32:
                raise KeyError("row 17")
            if self._slots[slot].step == 4 and self._slots[slot].spec.adapter.r == 16:
                raise MemoryError("out of memory")
        return super().step(slots)

    def _step(self, slot, seconds):
        if slot.step == 4 and slot.spec.adapter.r == 64:
            return Failure(kind="diverged", message="step 5: train_loss nan")
        return super()._step(slot, seconds)

def open_pack(base, data, cache):
    return Pack()
'''


def test_each_fault_ends_its_own_trial_and_no_other(tmp_path):
    words = [
        *runs.TOY, *runs.variant(tmp_path, "faulty", FAULTY), "scheduler.kind=fifo", "budget.steps_per_trial=9",
        "cluster.slots_per_host=3", "searcher.kind=grid", "searcher.start_with_default=false",
        "search_space={adapter.r: {choice: [64, 32, 16, 8, 4, 2]}}",
    ]  # fmt: skip
    run = runs.start(tmp_path, "launch", *words)
    sweep = tmp_path / "results" / "toy"
    assert run.wait() == 1, run.err.read_text()
    found = runs.assert_whole(sweep, f"sqlite:///{tmp_path}/mlflow.db", 6)
    runs.assert_every_step_once(sweep)
    states = {trial.params["r"]: trial.state.value for trial in found.trials.values()}
    calm = dict.fromkeys((8, 4, 2), "COMPLETED")
    assert states == {64: "DIVERGED", 32: "FAILED", 16: "OUT_OF_MEMORY", **calm}
    assert {trial.params["r"]: trial.step for trial in found.trials.values()} == {
        64: 4, 32: 4, 16: 4, **dict.fromkeys(calm, 9)
    }  # fmt: skip
    assert run.answer()["best"]["params"]["r"] == 8
    assert "Traceback" not in run.err.read_text()


def test_a_trial_whose_process_always_dies_fails_and_ends(tmp_path):
    """Nothing is saved in between: its first step takes longer than its process lives."""
    run = runs.start(tmp_path, "launch", *runs.TOY, "budget.trials=1", "training.step_seconds=60")
    died: set[int] = set()

    def ended() -> bool:
        for pid in set(runs.ray_processes(run, "TrialStub")) - died:
            died.add(pid)
            runs.kill(pid)
        return run.process.poll() is not None

    runs.wait_for(ended)
    told = run.err.read_text()
    assert run.wait() == 1, told
    assert len(died) == GUILTY_AFTER
    [trial] = runs.record(tmp_path / "results" / "toy").trials.values()
    assert trial.state.value == "FAILED"
    assert f"its process died {GUILTY_AFTER} times in a row" in trial.reason
    assert "Traceback" not in told
