"""A pack that raises where it should return a `Failure`: the trial that is to blame fails with the pack's own words."""

from __future__ import annotations

import threading

import pytest
from pack_loops import DEADLINE, trial

from trainables import toy
from trainables.contract import Failure, Opened
from trainables.objective import Standing
from trainables.specs import TrialSpec

FAULTY = 32
"""The rank of the trial that goes wrong."""


class Raising(toy.ToyPack):
    """The toy's curves, which raise KeyError in one method for one rank."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def _raise(self, where: str, specs: list[TrialSpec]) -> None:
        if where == self.where and any(spec.adapter.r == FAULTY for spec in specs):
            raise KeyError("row 17")

    def open(self, slot, spec, snapshot=None):
        opened = super().open(slot, spec, snapshot)
        self._raise("open", [spec])
        return opened

    def step(self, slots):
        self._raise("step", [self._slots[slot].spec for slot in slots])
        return super().step(slots)

    def evaluate(self, slots, scored=()):
        self._raise("evaluate", [self._slots[slot].spec for slot in slots])
        return super().evaluate(slots, scored)


WORDS = Failure(kind="failed", message="KeyError: 'row 17'")


def test_what_is_raised_while_opening_is_the_trials_failure_and_takes_no_slot(started):
    loop = started(Raising("open"), slots=1)
    assert loop.open("a", trial(r=FAULTY), None).result(DEADLINE) == WORDS
    assert isinstance(loop.open("b", trial(), None).result(DEADLINE), Opened)
    assert loop.advance("b", 3, Standing(), 0, DEADLINE).step == 3


@pytest.mark.parametrize(("where", "step"), [("step", 0), ("evaluate", 3)])
def test_what_a_trial_raises_alone_is_its_own_failure(started, where, step):
    loop = started(Raising(where))
    loop.open("a", trial(r=FAULTY), None).result(DEADLINE)
    found = loop.advance("a", 3, Standing(), 0, DEADLINE)
    assert (found.step, found.failure) == (step, WORDS)
    loop.open("b", trial(), None).result(DEADLINE)
    assert loop.advance("b", 3, Standing(), 0, DEADLINE).evaluation is not None


class RaisingOnSeveral(toy.ToyPack):
    """Raises KeyError on several slots at once; alone, a slot waits at a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def step(self, slots):
        if len(slots) > 1:
            raise KeyError("row 17")
        assert self.gate.wait(DEADLINE)
        return super().step(slots)


def test_who_is_to_blame_among_several_is_not_guessed(started):
    pack = RaisingOnSeveral()
    loop = started(pack)
    for lease in ("a", "b"):
        loop.open(lease, trial(), None).result(DEADLINE)
        assert loop.advance(lease, 5, Standing(), 0, 0.0) is None
    pack.gate.set()
    with pytest.raises(RuntimeError, match=r"training loop broke: KeyError\('row 17'\)"):
        loop.advance("a", 5, Standing(), 0, DEADLINE)
