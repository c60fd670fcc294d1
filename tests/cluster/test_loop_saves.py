"""A lease that is saved at once, because its owner has to leave."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from pack_loops import GatedPack

from cluster.loop import PackLoop
from trainables import toy
from trainables.contract import Failure
from trainables.objective import Standing
from trainables.specs import TrainingSpec, TrialSpec

DEADLINE = 120.0
TRIAL = TrialSpec(trainable="toy", training=TrainingSpec(learning_rate=3e-4), steps=100)


class LongEvaluation(toy.ToyPack):
    """Evaluates once the test lets it, and then says what the test wants."""

    def __init__(self, failure: Failure | None = None) -> None:
        super().__init__()
        self.began, self.may_end = threading.Event(), threading.Event()
        self._failure = failure

    def evaluate(self, slots, scored=()):
        self.began.set()
        assert self.may_end.wait(DEADLINE)
        return super().evaluate(slots, scored) if self._failure is None else dict.fromkeys(slots, self._failure)


@pytest.fixture
def saved_while_evaluated():
    """The answer to a save that came while a lease was evaluated at step 3; the loop goes on."""
    loops: list[PackLoop] = []

    def save(pack: LongEvaluation):
        loop = PackLoop(pack, 1)
        loops.append(loop)
        loop.open("a", TRIAL, None).result(DEADLINE)
        with ThreadPoolExecutor(1) as owner:
            waiting = owner.submit(loop.advance, "a", 3, Standing(), 0, DEADLINE)
            assert pack.began.wait(DEADLINE)
            answer = loop.save("a", 0)
            pack.may_end.set()
            waiting.result(DEADLINE)
        return loop, answer.result(DEADLINE)

    yield save
    for loop in loops:
        loop.stop()


def test_a_save_while_a_lease_is_evaluated_brings_the_evaluation(saved_while_evaluated):
    _, outcome = saved_while_evaluated(LongEvaluation())
    assert outcome.evaluation.loss == toy.loss_at(TRIAL, 3)
    assert [record.step for record in outcome.history] == [1, 2, 3]
    assert outcome.adapter is not None


def test_a_save_while_a_lease_is_evaluated_brings_the_failure(saved_while_evaluated):
    _, outcome = saved_while_evaluated(LongEvaluation(Failure(kind="diverged", message="nan")))
    assert (outcome.step, outcome.failure.kind) == (3, "diverged")
    assert [record.step for record in outcome.history] == [1, 2, 3]


def test_a_lease_whose_owner_leaves_takes_no_step_between_its_save_and_its_end():
    """A step may take minutes, and the sweep's end waits for it."""
    pack = GatedPack(1)
    loop = PackLoop(pack, 1)
    loop.open("a", TRIAL, None).result(DEADLINE)
    assert loop.advance("a", 9, Standing(), 0, 0.0) is None
    pack.gates[1].wait_until_reached()
    saved = loop.save("a", 0)
    pack.gates[1].open()
    assert saved.result(DEADLINE).step == 1
    loop.evaluate_base().result(DEADLINE)  # a whole turn of the loop
    assert pack.steps == 1
    assert loop.advance("a", 9, Standing(), 1, DEADLINE).step == 9, "one that is asked to advance goes on"
    loop.stop()


def test_a_save_after_the_owner_has_the_evaluation_brings_a_snapshot_alone(saved_while_evaluated):
    loop, _ = saved_while_evaluated(LongEvaluation())
    outcome = loop.save("a", 3).result(DEADLINE)
    assert (outcome.step, outcome.evaluation, outcome.history) == (3, None, ())
    assert outcome.snapshot is not None
