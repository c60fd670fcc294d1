"""What a trial's process makes of an exception."""

from __future__ import annotations

import pytest

from sweeps.lifecycle import TrialState
from sweeps.tune_trial import SlotTrial


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("first\nlast"), "ValueError: last"),
        (AssertionError(), "AssertionError"),
        (MemoryError("  \n"), "MemoryError"),
    ],
)
def test_exception_in_a_trial_ends_it_and_is_never_raised_into_tune(monkeypatch, error, reason):
    def broken(self):
        raise error

    monkeypatch.setattr(SlotTrial, "_train", broken)
    trial = object.__new__(SlotTrial)
    trial._grant, trial._step, trial._history = None, 4, []
    assert trial.step() == {"step": 4, "state": TrialState.FAILED.value, "reason": reason, "history": [], "done": True}
