"""Which host may hang, by what it is at and how long that took before: of nothing that is only slow is it said."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from pack_loops import DEADLINE, GatedPack, advanced, ask, opened, trial

from cluster import host_states, timeouts
from cluster.hosts import HostFacts
from cluster.leases import Lease
from cluster.pace import Doing, Pace, Pulse


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def takes(pace: Pace, clock: Clock, what, seconds: float, size: int = 1) -> None:
    with pace.does(what, size):
        clock.now += seconds


def is_overdue(pace: Pace, clock: Clock, what, seconds: float, size: int = 1) -> bool:
    """Whether a host that is at this for so long may hang."""
    pulse = Pulse()
    with pace.does(what, size):
        clock.now += seconds
        pulse.heard(pace.doing())
    return pulse.overdue(clock.now) is not None


def test_a_host_may_hang_at_a_step_that_lasts_20_times_the_slowest_and_10_minutes(clock):
    pace = Pace(clock)
    takes(pace, clock, "step", 2.0)
    assert not is_overdue(pace, clock, "step", timeouts.HANG_SECONDS - 1.0)
    pace = Pace(clock)
    takes(pace, clock, "step", 2.0)
    assert is_overdue(pace, clock, "step", timeouts.HANG_SECONDS + 1.0)
    pace = Pace(clock)
    takes(pace, clock, "step", 60.0)
    takes(pace, clock, "step", 5.0)
    assert not is_overdue(pace, clock, "step", 1199.0)
    pace = Pace(clock)
    takes(pace, clock, "step", 60.0)
    assert is_overdue(pace, clock, "step", 1201.0)


def test_the_first_of_each_kind_may_take_long(clock):
    pace = Pace(clock)
    takes(pace, clock, "step", 2.0)
    assert not is_overdue(pace, clock, "evaluation", timeouts.HANG_AT_FIRST_SECONDS - 1.0)
    assert is_overdue(Pace(clock), clock, "evaluation", timeouts.HANG_AT_FIRST_SECONDS + 1.0)


def test_more_work_may_take_longer(clock):
    pace = Pace(clock)
    takes(pace, clock, "evaluation", 60.0)
    with pace.does("evaluation", 16):
        clock.now += 1.0
        assert pace.doing() == Doing(what="evaluation", seconds=1.0, usual=960.0, patience=19_200.0)


def test_a_host_may_hang_that_answers_nothing_from_its_first_question_on(clock):
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


def test_a_loop_says_what_it_is_at(started, clock):
    pack = GatedPack(2)
    loop = started(pack, clock=clock)
    opened(loop, "a", trial(batch_size=2, gradient_accumulation_steps=3))
    ask(loop, "a", 2)
    pack.gates[2].wait_until_reached()
    clock.now += 700.0
    doing = loop.doing()
    assert (doing.what, doing.seconds, doing.usual, doing.patience) == ("step", 700.0, 0.0, timeouts.HANG_SECONDS)
    pack.gates[2].open()
    advanced(loop, "a", 2)
    loop.close("a").result(DEADLINE)
    loop.stop()  # The thread may still be about to note that the close is over.
    assert loop.doing() is None


@pytest.mark.parametrize("answers", [True, False], ids=["answers", "is still"])
def test_a_host_that_may_hang_is_told_with_its_trials(clock, monkeypatch, answers):
    doing = Doing(what="step", seconds=900.0, usual=2.0, patience=timeouts.HANG_SECONDS)

    async def latest() -> object:
        if not answers:
            await asyncio.Event().wait()
        return {}, doing

    monkeypatch.setattr(timeouts, "HOST_ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(host_states.time, "time", lambda: 10_000.0)
    actor = SimpleNamespace(latest=SimpleNamespace(remote=latest))
    facts = HostFacts(pid=7, node="10.0.0.1", device="cpu", slots=2, estimated_bytes=None)
    host = host_states.Host(actor, facts, leases={"aaa": Lease("aaa-1", 0.0)})
    assert asyncio.run(host.latest(clock)) == {}
    found = host.silent(timeouts.HANG_SECONDS + 1.0)
    assert found is not None
    assert (found.pid, found.node, found.trials) == (7, "10.0.0.1", ("aaa",))
    told = ("step", 2.0, 9_100.0) if answers else ("answer", None, 9_399.0)
    assert (found.what, found.usual, found.since) == told
