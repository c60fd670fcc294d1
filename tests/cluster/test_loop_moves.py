"""Trials leave a host that ends soon: each at its next step, with a snapshot of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pack_loops import DEADLINE, GatedPack, trial

from trainables import toy
from trainables.objective import Standing


def test_a_lease_on_its_way_hands_out_a_snapshot_at_its_next_step_and_takes_no_further_one(started):
    pack = GatedPack(3)
    loop = started(pack)
    loop.open("a", trial(), None).result(DEADLINE)
    with ThreadPoolExecutor(1) as owner:
        waiting = owner.submit(loop.advance, "a", 50, Standing(), 0, DEADLINE)
        pack.gates[3].wait_until_reached()
        loop.move_out()
        pack.gates[3].open()
        outcome = waiting.result(DEADLINE)
    assert (outcome.moves, outcome.step, outcome.evaluation) == (True, 3, None)
    assert [record.step for record in outcome.history] == [1, 2, 3]
    assert loop.advance("a", 50, Standing(), 3, 0.05).step == 3, "it waits"
    assert pack.steps == 3
    elsewhere = started(toy.ToyPack())
    assert elsewhere.open("b", trial(), outcome.snapshot).result(DEADLINE).step == 3


def test_an_owner_that_knows_later_steps_is_told_to_move_all_the_same(started):
    """Its host was lost after the steps and before their snapshot."""
    loop = started(GatedPack())
    loop.open("a", trial(), None).result(DEADLINE)
    loop.move_out()
    outcome = loop.advance("a", 50, Standing(), 7, DEADLINE)
    assert (outcome.moves, outcome.step, outcome.history) == (True, 1, ())


def test_a_lease_at_its_report_point_is_evaluated_and_moves_on_its_way_to_the_next(started):
    pack = GatedPack(3)
    loop = started(pack)
    loop.open("a", trial(), None).result(DEADLINE)
    with ThreadPoolExecutor(1) as owner:
        waiting = owner.submit(loop.advance, "a", 3, Standing(), 0, DEADLINE)
        pack.gates[3].wait_until_reached()
        loop.move_out()
        pack.gates[3].open()
        assert waiting.result(DEADLINE).evaluation is not None
    outcome = loop.advance("a", 9, Standing(), 3, DEADLINE)
    assert (outcome.moves, outcome.step) == (True, 4)
