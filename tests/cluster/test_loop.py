"""The training loop of a host: slots come and go between steps, and nobody waits for another's owner."""

from __future__ import annotations

import math

import pytest
from pack_loops import DEADLINE, GatedPack, advanced, ask, opened, trial

from cluster.errors import LeaseOver
from trainables import toy
from trainables.contract import Failure, Opened
from trainables.objective import Standing


def test_a_lease_is_trained_to_its_target_and_evaluated_there(started):
    pack = GatedPack()
    loop = started(pack)
    assert opened(loop, "a") == Opened(step=0, trainable_params=16_000)
    outcome = advanced(loop, "a", 3)
    assert (outcome.step, outcome.failure) == (3, None)
    assert [record.step for record in outcome.history] == [1, 2, 3]
    assert outcome.evaluation.loss == toy.loss_at(trial(), 3)
    assert pack.log == [("open", 0), ("step", 0), ("step", 0), ("step", 0), ("evaluate", 0)]


def test_what_is_asked_of_the_base_first_is_done_first(started):
    pack = GatedPack()
    loop = started(pack)
    found = loop.evaluate_base()
    opened(loop, "a")
    advanced(loop, "a", 1)
    assert found.result(DEADLINE).loss == toy.START_LOSS
    assert pack.log == [("evaluate_base",), ("open", 0), ("step", 0), ("evaluate", 0)]


def test_a_base_that_cannot_be_evaluated_stops_no_trial(started):
    class Bare(toy.ToyPack):
        evaluate_base = property()

    loop = started(Bare())
    failure = loop.evaluate_base().result(DEADLINE)
    assert isinstance(failure, Failure)
    assert failure.message.startswith("AttributeError")
    opened(loop, "a")
    assert advanced(loop, "a", 3).step == 3


def test_history_of_an_answer_that_was_lost_is_given_again(started):
    loop = started(toy.ToyPack())
    opened(loop, "a")
    advanced(loop, "a", 3)
    assert [record.step for record in advanced(loop, "a", 5).history] == [1, 2, 3, 4, 5]
    assert [record.step for record in advanced(loop, "a", 6, known=5).history] == [6]


def test_a_lease_is_saved_on_its_way(started):
    pack = GatedPack(5)
    loop = started(pack)
    opened(loop, "a", trial(snapshot_every=2))
    saved = advanced(loop, "a", 9)
    # The loop may have come to the next one before it is asked.
    assert saved.step in (2, 4)
    assert (saved.evaluation, saved.failure) == (None, None)
    assert [record.step for record in saved.history] == list(range(1, saved.step + 1))
    pack.gates[5].open()
    other = toy.ToyPack()
    assert other.open(0, trial(snapshot_every=2), saved.snapshot).step == saved.step
    known = saved.step
    while (outcome := advanced(loop, "a", 9, known=known)).evaluation is None:
        known = outcome.step
    assert outcome.step == 9
    assert [record.step for record in outcome.history] == list(range(known + 1, 10))


def test_a_lease_is_saved_after_its_time(started):
    pack = GatedPack(6)
    loop = started(pack, clock=lambda: 0.4 * pack.steps)
    opened(loop, "a", trial(snapshot_every="1s"))
    saved = advanced(loop, "a", 8)
    assert (saved.step, saved.evaluation, saved.failure) == (3, None, None)
    pack.gates[6].open()


def test_leases_with_steps_to_do_share_them(started):
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


def test_a_lease_that_waits_for_its_owner_holds_nobody_up(started):
    pack = GatedPack()
    loop = started(pack)
    opened(loop, "a")
    opened(loop, "b")
    advanced(loop, "a", 3)
    assert advanced(loop, "b", 9).step == 9
    assert sum(entry[0] == "step" and 0 in entry[1:] for entry in pack.log) == 3


def test_the_same_target_twice_trains_once_and_answers_twice(started):
    pack = GatedPack()
    loop = started(pack)
    opened(loop, "a")
    first = advanced(loop, "a", 3)
    assert advanced(loop, "a", 3) == first
    assert (pack.steps, pack.log.count(("evaluate", 0))) == (3, 1)


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
    assert (outcome.step, outcome.evaluation) == (4, None)
    assert [record.step for record in outcome.history] == [1, 2, 3, 4]
    assert advanced(loop, "a", 9) == outcome
    assert advanced(loop, "b", 9).failure is None


def test_a_failed_evaluation_is_the_leases_own_outcome(started):
    class Blind(toy.ToyPack):
        def evaluate(self, slots, scored=()):
            return {**super().evaluate(slots, scored), 0: Failure(kind="diverged", message="eval_loss nan")}

    loop = started(Blind())
    opened(loop, "a")
    opened(loop, "b")
    outcome = advanced(loop, "a", 3)
    assert (outcome.step, outcome.failure.kind, len(outcome.history)) == (3, "diverged", 3)


def test_a_snapshot_that_cannot_be_made_costs_its_own_lease_alone(started):
    class Unkept(toy.ToyPack):
        def snapshot(self, slot):
            if slot == 0:
                raise MemoryError("no room for the snapshot")
            return super().snapshot(slot)

    loop = started(Unkept())
    opened(loop, "a")
    opened(loop, "b")
    assert advanced(loop, "a", 3).failure == Failure(kind="out_of_memory", message="no room for the snapshot")
    assert advanced(loop, "b", 3).failure is None


def test_the_outcomes_snapshot_goes_on_in_another_loop(started):
    first = started(toy.ToyPack())
    opened(first, "a")
    snapshot = advanced(first, "a", 3).snapshot
    second = started(toy.ToyPack())
    assert opened(second, "a-2", trial(), snapshot).step == 3
    outcome = advanced(second, "a-2", 5)
    assert [record.step for record in outcome.history] == [4, 5]
    assert outcome.history[-1].tokens == 5 * 400


def test_a_lease_opened_at_its_target_is_evaluated_without_another_step(started):
    first = started(toy.ToyPack())
    opened(first, "a")
    snapshot = advanced(first, "a", 3).snapshot
    loop = started(toy.ToyPack())
    opened(loop, "a", trial(), snapshot)
    outcome = advanced(loop, "a", 3)
    assert (outcome.step, outcome.history) == (3, ())
    assert outcome.evaluation.loss == toy.loss_at(trial(), 3)


def test_an_unknown_lease_is_over(started):
    loop = started(toy.ToyPack())
    with pytest.raises(LeaseOver, match="unknown"):
        advanced(loop, "unknown", 3)
    with pytest.raises(LeaseOver, match="unknown"):
        loop.save("unknown", 0).result(DEADLINE)
    assert not issubclass(LeaseOver, KeyError), "a trainable raises KeyError too"


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
    loop = started(pack, slots=2)
    first = opened(loop, "a")
    advanced(loop, "a", 3)
    assert opened(loop, "a") == first
    assert [record.step for record in advanced(loop, "a", 4).history] == [1, 2, 3, 4]
    assert pack.steps == 4
    assert isinstance(opened(loop, "b"), Opened)
    assert [entry for entry in pack.log if entry[0] in ("open", "close")] == [("open", 0), ("open", 1)]


def test_a_trial_that_cannot_be_opened_takes_no_slot(started):
    loop = started(toy.ToyPack(), slots=1)
    assert opened(loop, "a", trial(r=300)).kind == "infeasible"
    assert isinstance(opened(loop, "b"), Opened)


@pytest.mark.parametrize(("best", "handed_out"), [(math.inf, True), (10.0, True), (toy.loss_at(trial(), 3), False)])
def test_the_adapter_is_handed_out_only_when_it_beats_the_best(started, best, handed_out):
    loop = started(toy.ToyPack())
    opened(loop, "a")
    outcome = advanced(loop, "a", 3, Standing(best, best))
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


def test_a_lease_that_was_closed_before_it_was_opened_takes_no_slot(started):
    loop = started(GatedPack(), slots=1)
    loop.close("a").result(DEADLINE)
    with pytest.raises(LeaseOver, match="the lease a was over before it was opened"):
        opened(loop, "a")
    assert opened(loop, "b").step == 0
