"""Leases of the broker, without Ray: hosts are fakes whose calls wait where the test says."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fake_actors import actor
from fleets import TOY
from ray.exceptions import ActorUnavailableError, OutOfMemoryError

from cluster import timeouts
from cluster.broker import WRITERS, Broker
from cluster.broker_answers import Lease
from cluster.host_states import HostState
from cluster.hosts import HostFacts, HostOptions, SlotLimits
from trainables.contract import Failure


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No Ray, and no pause before a host is asked again."""
    monkeypatch.setattr("ray.kill", lambda actor: None)
    monkeypatch.setattr(timeouts, "LOST_HOST_AGAIN_SECONDS", 0.0)


class Close:
    """How a host closes leases: at once, or when the test opens the call's gate; `closed` are those it has closed."""

    def __init__(self, waits: bool = False) -> None:
        self.waits, self.closed, self.gates = waits, list[str](), list[asyncio.Event]()

    async def __call__(self, lease: str) -> None:
        self.gates.append(asyncio.Event())
        if self.waits:
            await self.gates[-1].wait()
        self.closed.append(lease)


async def dies(*_arguments: object) -> None:
    """As of a process that Ray has ended for want of memory."""
    raise OutOfMemoryError("Task was killed due to the node running low on memory.")


def host(slots: int = 1, **methods: Any) -> HostState:
    facts = HostFacts(pid=1, node="127.0.0.1", device="cpu", slots=slots, estimated_bytes=None)
    methods.setdefault("close", Close())
    return HostState(actor(**methods), facts, base=TOY.base_name)


def broker_with(*hosts: HostState, clock: Callable[[], float] = lambda: 0.0, auto: int = 0) -> Broker:
    """A broker that makes no host of its own; `auto` bounds the slots of hosts that find their number themselves."""
    limits = SlotLimits(slots="auto" if auto else 1, at_most=auto or 1, largest=())
    broker = Broker(TOY, limits, HostOptions(), Run, clock)
    broker._hosts |= {str(number): each for number, each in enumerate(hosts)}
    broker._tried = math.inf
    return broker


async def granted(broker: Broker, trial_key: str, wait_seconds: float = 0.02) -> Lease | None:
    found = await broker.acquire(trial_key, wait_seconds)
    assert found is None or isinstance(found, Lease)
    return found


async def lease(broker: Broker, trial_key: str) -> str:
    found = await granted(broker, trial_key)
    assert found is not None
    return found.id


async def test_a_slot_is_free_once_its_host_has_closed_the_lease():
    close = Close(waits=True)
    broker = broker_with(host(close=close))
    first = await lease(broker, "a")
    vacating = asyncio.create_task(broker.vacate("a"))
    while not close.gates:
        await asyncio.sleep(0)
    assert await granted(broker, "b") is None
    close.gates[0].set()
    await vacating
    assert close.closed == [first]
    assert await lease(broker, "a") != first, "an id is never used again"


async def test_a_host_that_the_memory_monitor_ended_is_a_lost_host():
    broker = broker_with(host(close=dies))
    await lease(broker, "a")
    await broker.vacate("a")
    assert broker._hosts == {}
    assert (await broker.news(0, 0.0)).lines == [
        "host lost (process 1 on 127.0.0.1, 1 trial); no host is left: trials wait until one is there"
    ]


@pytest.mark.parametrize(("method", "arguments"), [("evaluate_base", ()), ("evaluate_finalists", ((),))])
async def test_what_takes_two_hosts_down_is_not_evaluated_again(method, arguments):
    dying: dict[str, Any] = {method: dies}
    broker = broker_with(host(**dying))
    evaluate = partial(getattr(broker, method), *arguments)
    assert await evaluate() is None
    assert await evaluate() is None, "there is no host, and that is nobody's fault"
    broker._hosts["0"] = host(**dying)
    found = await evaluate()
    assert isinstance(found, Failure)
    assert found.message == "its host died, twice"


class Run:
    """A trial that answers with what it was made of."""

    def __init__(self, _broker: Broker, question: Any, before: Run | None) -> None:
        self.made_of, self.ends = (question, before), 0

    async def answer(self, question: Any, wait_seconds: float) -> Any:
        return self, question

    async def end(self) -> None:
        self.ends += 1


async def test_a_stub_that_is_made_anew_asks_the_same_run_and_a_trial_that_was_parked_has_another():
    broker = broker_with(host())
    first, told = await broker.next_result("a", 1, "first", 0.0)
    assert (first.made_of, told) == (("first", None), "first")
    assert await broker.next_result("a", 1, "again", 0.0) == (first, "again")
    second, _ = await broker.next_result("a", 3, "second", 0.0)
    assert second.made_of == ("second", first)
    assert await broker.next_result("a", 1, "late", 0.0) is None
    await broker.release("a", 1)
    assert await broker.next_result("a", 3, "", 0.0) == (second, ""), "a late release ends no later run"
    await broker.release("a", 3)
    assert (second.ends, broker._runs) == (1, {})


async def test_a_trial_that_somebody_stops_goes_on_no_further():
    broker = broker_with()
    await broker.stop_trial("a")
    assert (broker.goes_on("a"), broker.goes_on("b")) == (False, True)
    await broker.stop()
    assert not broker.goes_on("b")


async def test_a_few_writers_at_a_time_and_answers_meanwhile():
    """Each of 32 trials has a snapshot to write, and the disk is slow."""
    broker, may_write, writing, most = broker_with(host(slots=32)), threading.Event(), list[int](), list[int]()

    def write(number: int) -> int:
        writing.append(number)
        most.append(len(writing))
        assert may_write.wait(30)
        writing.remove(number)
        return number

    writes = [asyncio.create_task(broker.in_thread(write, number)) for number in range(32)]
    while len(writing) < WRITERS:
        await asyncio.sleep(0.001)
    assert await lease(broker, "a"), "the event loop is free"
    may_write.set()
    assert await asyncio.gather(*writes) == list(range(32))
    assert max(most) == WRITERS


async def test_hosts_that_join_take_their_share_of_auto_slots_from_those_before_as_trials_end():
    broker = broker_with(host(slots=9), auto=9)

    async def placed(*trials: str) -> list[str | None]:
        leases = [await granted(broker, trial) for trial in trials]
        return [None if each is None else each.host_id for each in leases]

    assert await placed(*"abcdefghij") == [*9 * ["0"], None]
    broker._hosts["second"] = host(slots=4)
    assert await broker.slots() == 13, "no GPU is idle until a trial ends"
    assert await placed(*"jklmn") == [*4 * ["second"], None]
    for trial, left in zip("abcd", (12, 11, 10, 9), strict=True):
        assert await placed("n") == [None]
        await broker.vacate(trial)
        assert await broker.slots() == left
    assert await placed("n") == [None], "each host has its share: the second has room for four, the first has five"
    await broker.vacate("e")
    assert await placed("n") == ["0"]
    await broker.lost("second")
    assert await broker.slots() == 9
    assert await placed(*"abcde") == [*4 * ["0"], None]


@pytest.mark.parametrize(
    ("sizes", "at_most", "held"),
    [
        ((5, 5), 9, [4, 5]),
        ((2, 8, 8), 9, [2, 3, 4]),  # what one has no room for goes to the others
        ((3, 3), 9, [3, 3]),
        ((7, 7, 7), 2, [1, 1, 1]),  # each has one at least
    ],
)
async def test_shares_of_hosts_add_up_to_the_bound_of_all(sizes, at_most, held):
    broker = broker_with(*(host(slots=slots) for slots in sizes), auto=at_most)
    assert await broker.slots() == sum(held)
    answers = [await granted(broker, str(number), 0.0) for number in range(20)]
    assert sum(answer is not None for answer in answers) == sum(held) == await broker.slots()
    assert sorted(len(each.leases) for each in broker._hosts.values()) == held


class OutOfReach(Close):
    """A host that the network keeps from answering so many times, and then no longer."""

    times: float = 0

    async def __call__(self, lease: str = "") -> None:
        await asyncio.sleep(0)
        if self.times > 0:
            self.times -= 1
            raise ActorUnavailableError("the connection broke", None)
        self.closed.append(lease)


async def test_a_host_that_is_out_of_reach_for_a_moment_keeps_its_trials_and_closes_what_it_is_asked_to():
    reach = OutOfReach()
    broker = broker_with(host(slots=2, close=reach, node_id=reach))
    leases = [await lease(broker, trial) for trial in ("a", "b")]
    reach.times = 5
    await broker.vacate("a")
    assert (list(broker._hosts), broker._deaths.in_a_row("a")) == (["0"], 0)
    assert list(broker._hosts["0"].leases) == ["b"]
    assert [each for each in reach.closed if each] == leases[:1]


async def test_a_host_that_stays_out_of_reach_is_lost():
    reach, times = OutOfReach(), iter(range(1000))
    broker = broker_with(host(close=reach, node_id=reach), clock=lambda: float(next(times)))
    await lease(broker, "a")
    reach.times = math.inf
    await broker._not_reached("0")
    assert (broker._hosts, broker._deaths.in_a_row("a")) == ({}, 1)
    assert next(times) >= timeouts.LOST_HOST_SECONDS
