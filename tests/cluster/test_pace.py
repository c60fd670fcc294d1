"""Which host may hang, by what it is at and how long that took before: of nothing that is only slow is it said."""

from __future__ import annotations

import asyncio

import pytest
from fake_actors import actor
from pack_loops import GatedPack, ask, opened, trial

from cluster import host_states, timeouts
from cluster.hosts import HostFacts
from cluster.pace import Doing, Pace, Pulse


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("before", "what", "seconds", "is_overdue"),
    [
        # A step: 20 times the slowest before, and 10 minutes.
        ([2.0], "step", timeouts.HANG_SECONDS - 1.0, False),
        ([2.0], "step", timeouts.HANG_SECONDS + 1.0, True),
        ([60.0, 5.0], "step", 1199.0, False),
        ([60.0], "step", 1201.0, True),
        # The first of each kind may take long.
        ([2.0], "evaluation", timeouts.HANG_AT_FIRST_SECONDS - 1.0, False),
        ([], "evaluation", timeouts.HANG_AT_FIRST_SECONDS + 1.0, True),
    ],
)
def test_a_host_may_hang_at_what_lasts_longer_than_what_it_did_before(before, what, seconds, is_overdue):
    clock, pulse = Clock(), Pulse()
    pace = Pace(clock)
    for took in before:
        with pace.does("step"):
            clock.now += took
    with pace.does(what):
        clock.now += seconds
        pulse.heard(pace.doing())
    assert (pulse.overdue(clock.now) is not None) == is_overdue


def test_more_work_may_take_longer():
    clock = Clock()
    pace = Pace(clock)
    with pace.does("evaluation"):
        clock.now += 60.0
    with pace.does("evaluation", 16):
        clock.now += 1.0
        assert pace.doing() == Doing(what="evaluation", seconds=1.0, usual=960.0, patience=19_200.0)


def test_a_host_may_hang_that_answers_nothing_from_its_first_question_on():
    pulse = Pulse()
    # Nobody asked it for an hour: that is no silence.
    pulse.missed(3600.0)
    pulse.missed(3605.0)
    assert pulse.overdue(3600.0 + timeouts.HANG_SECONDS - 1.0) is None
    assert pulse.overdue(3600.0 + timeouts.HANG_SECONDS + 1.0) == Doing(
        what="answer", seconds=timeouts.HANG_SECONDS + 1.0, usual=None, patience=timeouts.HANG_SECONDS
    )
    pulse.heard(None)
    assert pulse.overdue(1e9) is None


def test_a_loop_says_what_it_is_at(started):
    clock, pack = Clock(), GatedPack(2)
    loop = started(pack, clock=clock)
    opened(loop, "a", trial(batch_size=2, gradient_accumulation_steps=3))
    ask(loop, "a", 2)
    pack.gates[2].wait_until_reached()
    clock.now += 700.0
    assert loop.doing() == Doing(what="step", seconds=700.0, usual=0.0, patience=timeouts.HANG_SECONDS)


@pytest.mark.parametrize("answers", [True, False], ids=["answers", "is still"])
async def test_a_host_that_may_hang_is_told_with_its_trials(monkeypatch, answers):
    doing = Doing(what="step", seconds=900.0, usual=2.0, patience=timeouts.HANG_SECONDS)

    async def latest() -> object:
        if not answers:
            await asyncio.Event().wait()
        return {}, doing

    monkeypatch.setattr(timeouts, "HOST_ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(host_states.time, "time", lambda: 10_000.0)
    facts = HostFacts(pid=7, node="10.0.0.1", device="cpu", slots=2, estimated_bytes=None)
    host = host_states.HostState(actor(latest=latest), facts, leases={"aaa": "aaa-1"})
    assert await host.latest(Clock()) == {}
    found = host.silent(timeouts.HANG_SECONDS + 1.0)
    assert found is not None
    assert (found.pid, found.node, found.trials) == (7, "10.0.0.1", ("aaa",))
    told = ("step", 2.0, 9_100.0) if answers else ("answer", None, 9_399.0)
    assert (found.what, found.usual, found.since) == told
