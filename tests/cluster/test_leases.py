"""Leases of the broker, without Ray: hosts are fakes whose calls wait where the test says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fake_actors import actor
from fleets import TOY
from ray.exceptions import ActorUnavailableError, OutOfMemoryError

from cluster import timeouts
from cluster.broker import Broker
from cluster.fleet import Host
from cluster.hosts import HostFacts, HostOptions, SlotLimits
from cluster.leases import Grant
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


def host(slots: int = 1, **methods: Any) -> Host:
    facts = HostFacts(pid=1, node="127.0.0.1", device="cpu", slots=slots, estimated_bytes=None)
    methods.setdefault("close", Close())
    return Host(actor(**methods), facts)


def broker_with(*hosts: Host, clock: Callable[[], float] = lambda: 0.0, auto: int = 0) -> Broker:
    """A broker that makes no host of its own; `auto` bounds the slots of hosts that find their number themselves."""
    limits = SlotLimits(slots="auto" if auto else 1, at_most=auto or 1, largest=())
    broker = Broker(TOY, limits, HostOptions(), clock)
    broker._hosts |= {str(number): each for number, each in enumerate(hosts)}
    broker._tried = math.inf
    return broker


async def granted(broker: Broker, trial_key: str, wait_seconds: float = 0.02) -> Grant | None:
    found = await broker.acquire(trial_key, wait_seconds)
    assert found is None or isinstance(found, Grant)
    return found


async def lease(broker: Broker, trial_key: str) -> str:
    found = await granted(broker, trial_key)
    assert found is not None
    return found.lease


async def test_a_late_release_does_not_take_the_next_lease_of_the_same_trial_away():
    close = Close(waits=True)
    broker = broker_with(host(close=close))
    await lease(broker, "a")
    releases = [asyncio.create_task(broker.release("a")) for _ in range(2)]
    while len(close.gates) < 2:
        await asyncio.sleep(0)
    close.gates[0].set()
    await releases[0]
    await lease(broker, "a")
    close.gates[1].set()
    await releases[1]
    assert await granted(broker, "b") is None, "one slot, two leases"


async def test_a_host_that_the_memory_monitor_ended_is_a_lost_host():
    broker = broker_with(host(close=dies))
    await lease(broker, "a")
    await broker.release("a")
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


async def test_a_lease_of_an_earlier_time_is_not_released_in_place_of_the_present_one():
    """The process of a trial that was parked hears late that another process has the trial."""
    close = Close()
    broker = broker_with(host(close=close))
    before, now = await lease(broker, "a"), await lease(broker, "a")
    await broker.release("a", before)
    assert close.closed == [before]
    await broker.release("a", now)
    assert close.closed == [before, now]


async def test_a_lease_that_nobody_renews_expires_and_its_slot_goes_to_another():
    close, now = Close(), [0.0]
    broker = broker_with(host(close=close), clock=lambda: now[0])
    first = await lease(broker, "a")
    now[0] = timeouts.LEASE_SECONDS - 1
    assert await broker.goes_on("a")
    now[0] = 2 * timeouts.LEASE_SECONDS - 2
    assert await granted(broker, "b") is None, "it was renewed"
    now[0] = 2 * timeouts.LEASE_SECONDS
    await lease(broker, "b")
    assert close.closed == [first]


async def test_a_host_that_hangs_keeps_no_trial_from_a_slot_of_another():
    """A trial that was on it is not heard of: its lease is over, and the host does not say that it has closed it."""
    close, now = Close(waits=True), [0.0]
    broker = broker_with(host(close=close), clock=lambda: now[0])
    await lease(broker, "a")
    broker._hosts["other"] = host(slots=2)
    now[0] = 2 * timeouts.LEASE_SECONDS
    for trial in ("b", "c"):
        found = await asyncio.wait_for(granted(broker, trial), 10)
        assert found is not None
        assert found.host_id == "other"
    assert len(close.gates) == 1, "it is asked once"
    close.gates[0].set()
    assert await granted(broker, "d", 10.0) is not None, "and its slot is free once it answers"


async def test_a_trial_that_asks_again_while_its_first_request_waits_holds_one_slot():
    """The network has lost the first answer, so the trial's process does not know of that lease."""
    broker = broker_with(host(), host())
    answers = await asyncio.gather(*(granted(broker, "a") for _ in range(2)))
    assert sum(answer is not None for answer in answers) == 1
    await lease(broker, "a")
    assert [len(each.leases) for each in broker._hosts.values()].count(1) == 1


async def test_hosts_that_join_take_their_share_of_auto_slots_from_those_before_as_trials_end():
    broker = broker_with(host(slots=9), auto=9)

    async def placed(*trials: str) -> list[str | None]:
        grants = [await granted(broker, trial) for trial in trials]
        return [None if grant is None else grant.host_id for grant in grants]

    assert await placed(*"abcdefghij") == [*9 * ["0"], None]
    broker._hosts["second"] = host(slots=4)
    assert await broker.slots() == 13, "no GPU is idle until a trial ends"
    assert await placed(*"jklmn") == [*4 * ["second"], None]
    for trial, left in zip("abcd", (12, 11, 10, 9), strict=True):
        assert await placed("n") == [None]
        await broker.release(trial)
        assert await broker.slots() == left
    assert await placed("n") == [None], "each host has its share: the second has room for four, the first has five"
    await broker.release("e")
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
    await broker.release("a")
    assert (list(broker._hosts), broker._deaths.of_trials) == (["0"], {})
    assert list(broker._hosts["0"].leases) == ["b"]
    assert [each for each in reach.closed if each] == leases[:1]


async def test_a_host_that_stays_out_of_reach_is_lost():
    reach, times = OutOfReach(), iter(range(1000))
    broker = broker_with(host(close=reach, node_id=reach), clock=lambda: float(next(times)))
    await lease(broker, "a")
    reach.times = math.inf
    await broker.not_reached("0")
    assert (broker._hosts, list(broker._deaths.of_trials)) == ({}, ["a"])
    assert next(times) >= timeouts.LOST_HOST_SECONDS
