"""Trials leave a host: each that is on its way when the host ends soon, or one whose owner has to go."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from pack_loops import DEADLINE, NONE, Blind, GatedPack, advanced, ask, opened, steps, trial

from cluster.loop import PackLoop
from trainables import toy


def meanwhile(loop: PackLoop, target: int, gate, happens) -> tuple:
    """The outcome of a lease at its target, and what happens while it is at a gate on its way there."""
    with ThreadPoolExecutor(1) as owner:
        waiting = owner.submit(loop.advance, "a", target, NONE, 0, DEADLINE)
        gate.wait_until_reached()
        happened = happens()
        gate.open()
        return waiting.result(DEADLINE), happened.result(DEADLINE) if isinstance(happened, Future) else happened


def test_a_lease_on_its_way_hands_out_a_snapshot_at_its_next_step_and_takes_no_further_one(started):
    pack = GatedPack(3)
    loop = started(pack)
    opened(loop, "a")
    outcome, _ = meanwhile(loop, 50, pack.gates[3], loop.move_out)
    assert (outcome.must_move, outcome.step, outcome.evaluation) == (True, 3, None)
    assert steps(outcome.history) == [1, 2, 3]
    assert loop.advance("a", 50, NONE, 3, 0.05).step == 3, "it waits"
    assert pack.steps == 3
    assert opened(started(toy.ToyPack()), "b", trial(), outcome.snapshot).step == 3


def test_an_owner_that_knows_later_steps_is_told_to_move_all_the_same(started):
    """Its host was lost after the steps and before their snapshot."""
    loop = started(GatedPack())
    opened(loop, "a")
    loop.move_out()
    outcome = advanced(loop, "a", 50, known=7)
    assert (outcome.must_move, outcome.step, outcome.history) == (True, 1, ())


def test_a_lease_at_its_report_point_is_evaluated_and_moves_on_its_way_to_the_next(started):
    pack = GatedPack(3)
    loop = started(pack)
    opened(loop, "a")
    outcome, _ = meanwhile(loop, 3, pack.gates[3], loop.move_out)
    assert outcome.evaluation is not None
    outcome = advanced(loop, "a", 9, known=3)
    assert (outcome.must_move, outcome.step) == (True, 4)


@pytest.mark.parametrize("pack", [GatedPack, Blind])
def test_a_save_while_a_lease_is_evaluated_brings_what_comes_of_it_and_a_later_one_a_snapshot(started, pack):
    gated = pack("evaluation")
    loop = started(gated)
    opened(loop, "a")
    reached, saved = meanwhile(loop, 3, gated.gates["evaluation"], lambda: loop.save("a", 0))
    assert saved == reached
    assert (saved.step, steps(saved.history), saved.adapter is None) == (3, [1, 2, 3], pack is Blind)
    assert (saved.failure is None, saved.evaluation is None) == (pack is GatedPack, pack is Blind)
    again = loop.save("a", 3).result(DEADLINE)
    assert (again.step, again.evaluation, again.history) == (3, None, ())
    assert (again.snapshot is not None, again.failure) == (pack is GatedPack, saved.failure)


def test_a_lease_whose_owner_leaves_takes_no_step_between_its_save_and_its_end(started):
    """A step may take minutes, and the sweep's end waits for it."""
    pack = GatedPack(1)
    loop = started(pack)
    opened(loop, "a")
    ask(loop, "a", 9)
    pack.gates[1].wait_until_reached()
    saved = loop.save("a", 0)
    pack.gates[1].open()
    assert saved.result(DEADLINE).step == 1
    loop.evaluate_base().result(DEADLINE)  # a whole turn of the loop
    assert pack.steps == 1
    assert advanced(loop, "a", 9, known=1).step == 9, "one that is asked to advance goes on"
