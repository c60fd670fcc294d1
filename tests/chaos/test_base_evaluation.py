"""Where a sweep starts from is good to know, and never worth a sweep."""

from __future__ import annotations

import chaos_runs as runs
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]
FAULTY = '''
"""The toy, whose base {trouble}."""
import os, signal
from trainables import toy
from trainables.toy import REQUIRES, check, fingerprint, need, prepare

class Pack(toy.ToyPack):
    def evaluate_base(self):
        {statement}

def open_pack(base, data, cache):
    return Pack()
'''


@pytest.mark.parametrize(
    ("trouble", "statement", "said"),
    [
        pytest.param("raises", "raise KeyError('row 17')", "KeyError: 'row 17'", marks=pytest.mark.chaos_long),
        ("kills its host", "os.kill(os.getpid(), signal.SIGKILL)", "its host died, twice"),
    ],
)
def test_a_base_that_cannot_be_evaluated_is_told_and_the_sweep_goes_on(tmp_path, trouble, statement, said):
    variant = runs.variant(tmp_path, "faulty", FAULTY.format(trouble=trouble, statement=statement))
    # Long enough to be asked again after the first host.
    run = runs.start(tmp_path, "launch", *runs.TOY, *variant, "training.step_seconds=0.4", "scheduler.kind=fifo")
    assert run.wait() == 0, run.err.read_text()
    assert f"the base without an adapter could not be evaluated: {said}" in run.err.read_text()
    found = runs.assert_whole(tmp_path / "results" / "toy", f"sqlite:///{tmp_path}/mlflow.db", 6)
    assert found.base is None
    assert run.answer()["base"] is None
    assert {trial.state.value for trial in found.trials.values()} == {"COMPLETED"}
