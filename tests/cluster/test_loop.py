"""The training loop of a host: slots come and go between steps, and nobody waits for another's owner."""

from __future__ import annotations

import math

import pytest
from pack_loops import DEADLINE, Blind, GatedPack, advanced, ask, failing, opened, steps, trial

from cluster.errors import LeaseOver
from trainables import toy
from trainables.contract import Failure, Opened
from trainables.objective import SortKey


def test_a_lease_is_trained_to_its_target_and_evaluated_there_once_however_often_it_is_asked(started):
    pack = GatedPack()
    loop = started(pack)
    assert opened(loop, "a") == Opened(step=0, trainable_params=16_000)
    outcome = advanced(loop, "a", 3)
    assert (outcome.step, outcome.failure, steps(outcome.history)) == (3, None, [1, 2, 3])
    assert outcome.evaluation.loss == toy.loss_at(trial(), 3)
    assert advanced(loop, "a", 3) == outcome
    assert pack.log == [("open", 0), ("step", 0), ("step", 0), ("step", 0), ("evaluate", 0)]
    assert steps(advanced(loop, "a", 5).history) == [1, 2, 3, 4, 5], "the answer was lost"
    assert steps(advanced(loop, "a", 6, known=5).history) == [6]


def test_what_is_asked_of_the_base_first_is_done_first(started):
    pack = GatedPack()
    loop = started(pack)
    found = loop.evaluate_base()
    opened(loop, "a")
    advanced(loop, "a", 1)
    assert found.result(DEADLINE).loss == toy.START_LOSS
    assert pack.log == [("evaluate_base",), ("open", 0), ("step", 0), ("evaluate", 0)]


def test_a_base_that_cannot_be_evaluated_stops_no_trial(started):
    loop = started(failing("evaluate_base", AttributeError("no base")))
    assert loop.evaluate_base().result(DEADLINE) == Failure(kind="failed", message="AttributeError: no base")
    opened(loop, "a")
    assert advanced(loop, "a", 3).step == 3


def test_a_lease_is_saved_on_its_way(started):
    pack = GatedPack(5)
    loop = started(pack)
    opened(loop, "a", trial(snapshot_every=2))
    saved = advanced(loop, "a", 9)
    # The loop may have come to the next one before it is asked.
    assert saved.step in (2, 4)
    assert (saved.evaluation, saved.failure) == (None, None)
    assert steps(saved.history) == list(range(1, saved.step + 1))
    pack.gates[5].open()
    assert toy.ToyPack().open(0, trial(snapshot_every=2), saved.snapshot).step == saved.step
    known = saved.step
    while (outcome := advanced(loop, "a", 9, known=known)).evaluation is None:
        known = outcome.step
    assert outcome.step == 9
    assert steps(outcome.history) == list(range(known + 1, 10))


def test_a_lease_is_saved_after_its_time(started):
    pack = GatedPack(6)
    loop = started(pack, clock=lambda: 0.4 * pack.steps)
    opened(loop, "a", trial(snapshot_every="1s"))
    saved = advanced(loop, "a", 8)
    assert (saved.step, saved.evaluation, saved.failure) == (3, None, None)


def test_leases_with_steps_to_do_share_them_and_one_that_waits_for_its_owner_holds_nobody_up(started):
    pack = GatedPack(1)
    loop = started(pack)
    opened(loop, "a")
    opened(loop, "b")
    ask(loop, "a", 3)
    pack.gates[1].wait_until_reached()
    ask(loop, "b", 2)
    pack.gates[1].open()
    advanced(loop, "a", 3)
    advanced(loop, "b", 2)
    assert [entry for entry in pack.log if entry[0] == "step"] == [("step", 0), ("step", 0, 1), ("step", 0, 1)]
    assert advanced(loop, "b", 9).step == 9
    assert pack.log.count(("step", 1)) == 7


def test_a_repeated_call_for_an_earlier_target_does_not_hold_the_lease_back(started):
    pack = GatedPack(1, 4)
    loop = started(pack)
    opened(loop, "a")
    ask(loop, "a", 5)
    pack.gates[1].wait_until_reached()
    ask(loop, "a", 3)
    pack.gates[1].open()
    pack.gates[4].wait_until_reached()
    assert ("evaluate", 0) not in pack.log


def test_a_lease_that_diverges_answers_with_its_failure_and_the_steps_before(started):
    loop = started(toy.ToyPack())
    opened(loop, "a", trial(learning_rate=0.05))
    opened(loop, "b")
    outcome = advanced(loop, "a", 9)
    assert outcome.failure == Failure(kind="diverged", message="step 5: train_loss nan")
    assert (outcome.step, outcome.evaluation, steps(outcome.history)) == (4, None, [1, 2, 3, 4])
    assert advanced(loop, "a", 9) == outcome
    assert advanced(loop, "b", 9).failure is None


RAISED = Failure(kind="failed", message="KeyError: 'row 17'")


@pytest.mark.parametrize(
    ("pack", "step", "failure"),
    [
        (lambda: Blind(), 3, Failure(kind="diverged", message="eval_loss nan")),
        (lambda: failing("snapshot", MemoryError("no room")), 3, Failure(kind="out_of_memory", message="no room")),
        (lambda: failing("step", KeyError("row 17")), 0, RAISED),
        (lambda: failing("evaluate", KeyError("row 17")), 3, RAISED),
    ],
    ids=["no number", "no snapshot", "a step raises", "an evaluation raises"],
)
def test_what_goes_wrong_with_one_lease_is_its_own_outcome(started, pack, step, failure):
    loop = started(pack())
    opened(loop, "a")
    opened(loop, "b")
    outcome = advanced(loop, "a", 3)
    assert (outcome.step, outcome.failure, len(outcome.history)) == (step, failure, step)
    assert advanced(loop, "b", 3).failure is None


def test_who_is_to_blame_for_what_is_raised_on_several_is_not_guessed(started):
    class Together(GatedPack):
        def step(self, slots):
            if len(slots) > 1:
                raise KeyError("row 17")
            return super().step(slots)

    pack = Together(1)
    loop = started(pack)
    opened(loop, "a")
    opened(loop, "b")
    ask(loop, "a", 5)
    pack.gates[1].wait_until_reached()
    ask(loop, "b", 5)
    pack.gates[1].open()
    with pytest.raises(RuntimeError, match=r"training loop broke: KeyError\('row 17'\)"):
        advanced(loop, "a", 5)


def test_the_outcomes_snapshot_goes_on_in_another_loop(started):
    first, second = started(toy.ToyPack()), started(toy.ToyPack())
    opened(first, "a")
    snapshot = advanced(first, "a", 3).snapshot
    assert opened(second, "a-2", trial(), snapshot).step == 3
    again = advanced(second, "a-2", 3)
    assert (again.step, again.history) == (3, ()), "it takes no step to be evaluated"
    assert again.evaluation.loss == toy.loss_at(trial(), 3)
    outcome = advanced(second, "a-2", 5)
    assert steps(outcome.history) == [4, 5]
    assert outcome.history[-1].tokens == 5 * 400


def test_a_complete_trial_has_no_snapshot_and_one_that_may_go_on_has(started):
    loop = started(toy.ToyPack())
    opened(loop, "a", trial().model_copy(update={"steps": 5}))
    assert [advanced(loop, "a", step).snapshot is not None for step in (3, 5)] == [True, False]


def test_a_lease_that_is_unknown_or_was_closed_before_it_was_opened_is_over_and_takes_no_slot(started):
    loop = started(GatedPack(), slots=1)
    with pytest.raises(LeaseOver, match="unknown"):
        advanced(loop, "unknown", 3)
    with pytest.raises(LeaseOver, match="unknown"):
        loop.save("unknown", 0).result(DEADLINE)
    assert not issubclass(LeaseOver, KeyError), "a trainable raises KeyError too"
    loop.close("a").result(DEADLINE)
    with pytest.raises(LeaseOver, match="the lease a was over before it was opened"):
        opened(loop, "a")
    assert opened(loop, "b").step == 0


def test_a_slot_changes_hands_before_the_next_step(started):
    pack = GatedPack(1)
    loop = started(pack, slots=1)
    opened(loop, "a")
    ask(loop, "a", 100)
    pack.gates[1].wait_until_reached()
    closing, opening = loop.close("a"), loop.open("b", trial(), None)
    assert not closing.done()
    pack.gates[1].open()
    closing.result(DEADLINE)
    assert opening.result(DEADLINE).step == 0
    assert pack.log == [("open", 0), ("step", 0), ("close", 0), ("open", 0)]
    assert advanced(loop, "b", 1).step == 1


def test_opening_an_open_lease_answers_again_and_goes_on_with_it(started):
    pack = GatedPack()
    loop = started(pack)
    first = opened(loop, "a")
    advanced(loop, "a", 3)
    assert opened(loop, "a") == first
    assert steps(advanced(loop, "a", 4).history) == [1, 2, 3, 4]
    assert pack.steps == 4
    assert isinstance(opened(loop, "b"), Opened)
    assert [entry for entry in pack.log if entry[0] in ("open", "close")] == [("open", 0), ("open", 1)]


@pytest.mark.parametrize(
    ("pack", "kind"), [(toy.ToyPack, "infeasible"), (lambda: failing("open", KeyError("row 17")), "failed")]
)
def test_a_trial_that_cannot_be_opened_takes_no_slot(started, pack, kind):
    loop = started(pack(), slots=1)
    assert opened(loop, "a", trial(r=300 if kind == "infeasible" else 8)).kind == kind
    assert isinstance(opened(loop, "b"), Opened)
    assert advanced(loop, "b", 3).step == 3


@pytest.mark.parametrize(("best", "handed_out"), [(math.inf, True), (10.0, True), (toy.loss_at(trial(), 3), False)])
def test_the_adapter_is_handed_out_only_when_it_beats_the_best(started, best, handed_out):
    loop = started(toy.ToyPack())
    opened(loop, "a")
    outcome = advanced(loop, "a", 3, SortKey(best, best))
    assert (outcome.adapter is not None) is handed_out


def test_an_opening_that_was_cancelled_never_takes_place(started):
    pack = GatedPack(1)
    loop = started(pack)
    opened(loop, "a")
    ask(loop, "a", 2)
    pack.gates[1].wait_until_reached()
    assert loop.open("b", trial(), None).cancel()
    pack.gates[1].open()
    assert advanced(loop, "a", 2).step == 2
    assert ("open", 1) not in pack.log
