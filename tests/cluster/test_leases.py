"""Leases of the broker, without Ray: hosts are fakes whose calls wait where the test says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorUnavailableError, OutOfMemoryError

from cluster import timeouts
from cluster.broker import Broker
from cluster.fleet import Host
from cluster.hosts import HostFacts, HostOptions, SlotLimits
from cluster.leases import Grant
from trainables.contract import Failure
from trainables.specs import TrialSpec


def host_with(actor: object, slots: int) -> Host:
    return Host(actor, HostFacts(pid=1, node="127.0.0.1", device="cpu", slots=slots, estimated_bytes=None))


class SlowToClose:
    """A host whose `close` answers when its gate is opened."""

    def __init__(self) -> None:
        self.gates: list[asyncio.Event] = []
        self.close = SimpleNamespace(remote=self._close)

    async def _close(self, lease: str) -> None:
        gate = asyncio.Event()
        self.gates.append(gate)
        await gate.wait()


def broker_with(host: object, slots: int = 1, clock: Callable[[], float] = lambda: 0.0) -> Broker:
    broker = Broker(TrialSpec(trainable="toy"), SlotLimits(slots=1, at_most=1, largest=()), HostOptions(), clock)
    broker._hosts["h"] = host_with(host, slots)
    broker._tried = 0.0  # It makes no host of its own.
    return broker


async def granted(broker: Broker, trial_key: str, wait_seconds: float = 0.05) -> Grant | None:
    found = await broker.acquire(trial_key, wait_seconds)
    assert found is None or isinstance(found, Grant)
    return found


def test_a_late_release_does_not_take_the_next_lease_of_the_same_trial_away():
    async def play() -> None:
        host = SlowToClose()
        broker = broker_with(host)
        assert await granted(broker, "a") is not None
        releases = [asyncio.create_task(broker.release("a")) for _ in range(2)]
        while len(host.gates) < 2:
            await asyncio.sleep(0)
        host.gates[0].set()
        await releases[0]
        assert await granted(broker, "a") is not None
        host.gates[1].set()
        await releases[1]
        assert await granted(broker, "b") is None, "one slot, two leases"

    asyncio.run(asyncio.wait_for(play(), 30))


class EndedByTheMemoryMonitor:
    """A host whose process Ray has ended for want of memory: every call says so."""

    def __init__(self) -> None:
        self.close = SimpleNamespace(remote=self._close)

    async def _close(self, lease: str) -> None:
        raise OutOfMemoryError("Task was killed due to the node running low on memory.")


def test_a_host_that_the_memory_monitor_ended_is_a_lost_host(monkeypatch):
    monkeypatch.setattr("ray.kill", lambda actor: None)

    async def play() -> None:
        broker = broker_with(EndedByTheMemoryMonitor())
        assert await granted(broker, "a") is not None
        await broker.release("a")
        assert broker._hosts == {}
        assert (await broker.news(0, 0.0)).lines == [
            "host lost (process 1 on 127.0.0.1, 1 trial); no host is left: trials wait until one is there"
        ]

    asyncio.run(asyncio.wait_for(play(), 30))


class DiesOverEvaluations:
    """A host whose process is gone when it is asked to evaluate the base or the finalists."""

    def __init__(self) -> None:
        self.evaluate_base = self.evaluate_finalists = SimpleNamespace(remote=self._evaluate)

    async def _evaluate(self, *_finalists: object) -> None:
        raise OutOfMemoryError("Task was killed due to the node running low on memory.")


@pytest.mark.parametrize(("method", "arguments"), [("evaluate_base", ()), ("evaluate_finalists", ((),))])
def test_what_takes_two_hosts_down_is_not_evaluated_again(monkeypatch, method, arguments):
    monkeypatch.setattr("ray.kill", lambda actor: None)

    async def play() -> None:
        broker = broker_with(DiesOverEvaluations())
        evaluate = partial(getattr(broker, method), *arguments)
        assert await evaluate() is None
        assert await evaluate() is None, "there is no host, and that is nobody's fault"
        broker._hosts |= broker_with(DiesOverEvaluations())._hosts
        found = await evaluate()
        assert isinstance(found, Failure)
        assert found.message == "its host died, twice"

    asyncio.run(asyncio.wait_for(play(), 30))


class Prompt:
    """A host that does what it is told at once."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.close = SimpleNamespace(remote=self._close)

    async def _close(self, lease: str) -> None:
        self.closed.append(lease)


def test_a_lease_of_an_earlier_time_is_not_released_in_place_of_the_present_one():
    """The process of a trial that was parked hears late that another process has the trial."""

    async def play() -> None:
        host = Prompt()
        broker = broker_with(host)
        before, now = await granted(broker, "a"), await granted(broker, "a")
        assert before is not None and now is not None
        await broker.release("a", before.lease)
        assert host.closed == [before.lease]
        await broker.release("a", now.lease)
        assert host.closed == [before.lease, now.lease]

    asyncio.run(asyncio.wait_for(play(), 30))


def test_a_lease_that_nobody_renews_expires_and_its_slot_goes_to_another():
    async def play() -> None:
        host, now = Prompt(), [0.0]
        broker = broker_with(host)
        broker._clock = lambda: now[0]
        first = await granted(broker, "a")
        assert first is not None
        now[0] = timeouts.LEASE_SECONDS - 1
        assert await broker.goes_on("a")
        now[0] = 2 * timeouts.LEASE_SECONDS - 2
        assert await granted(broker, "b") is None, "it was renewed"
        now[0] = 2 * timeouts.LEASE_SECONDS
        assert await granted(broker, "b") is not None
        assert host.closed == [first.lease]

    asyncio.run(asyncio.wait_for(play(), 30))


def test_a_host_that_hangs_keeps_no_trial_from_a_slot_of_another():
    """A trial that was on it is not heard of: its lease is over, and the host does not say that it has closed it."""

    async def play() -> None:
        host, now = SlowToClose(), [0.0]
        broker = broker_with(host, clock=lambda: now[0])
        assert await granted(broker, "a") is not None
        broker._hosts["other"] = host_with(Prompt(), 2)
        now[0] = 2 * timeouts.LEASE_SECONDS
        for trial in ("b", "c"):
            found = await asyncio.wait_for(granted(broker, trial), 10)
            assert found is not None
            assert found.host_id == "other"
        assert len(host.gates) == 1, "it is asked once"
        host.gates[0].set()
        assert await granted(broker, "d", 10.0) is not None, "and its slot is free once it answers"

    asyncio.run(asyncio.wait_for(play(), 30))


def test_a_trial_that_asks_again_while_its_first_request_waits_holds_one_slot():
    """The network has lost the first answer, so the trial's process does not know of that lease."""

    async def play() -> None:
        broker = broker_with(Prompt())
        broker._hosts["other"] = host_with(Prompt(), 1)
        answers = await asyncio.gather(*(granted(broker, "a") for _ in range(2)))
        assert sum(answer is not None for answer in answers) == 1
        assert await granted(broker, "a") is not None
        assert [len(host.leases) for host in broker._hosts.values()].count(1) == 1

    asyncio.run(asyncio.wait_for(play(), 30))


def test_hosts_that_join_take_their_share_of_auto_slots_from_those_before_as_trials_end(monkeypatch):
    monkeypatch.setattr("ray.kill", lambda actor: None)
    limits = SlotLimits(slots="auto", at_most=9, largest=())

    async def play() -> None:
        broker = Broker(TrialSpec(trainable="toy"), limits, HostOptions(), lambda: 0.0)
        broker._tried = 0.0  # It makes no host of its own.

        async def placed(*trials: str) -> list[str | None]:
            grants = [await granted(broker, trial) for trial in trials]
            return [None if grant is None else grant.host_id for grant in grants]

        broker._hosts["first"] = host_with(Prompt(), 9)
        assert await placed(*"abcdefghij") == [*9 * ["first"], None]
        broker._hosts["second"] = host_with(Prompt(), 4)
        assert await broker.slots() == 13, "no GPU is idle until a trial ends"
        assert await placed(*"jklmn") == [*4 * ["second"], None]
        for trial, left in zip("abcd", (12, 11, 10, 9), strict=True):
            assert await placed("n") == [None]
            await broker.release(trial)
            assert await broker.slots() == left
        assert await placed("n") == [None], "each host has its share: the second has room for four, the first has five"
        await broker.release("e")
        assert await placed("n") == ["first"]
        await broker.lost("second")
        assert await broker.slots() == 9
        assert await placed(*"abcde") == [*4 * ["first"], None]

    asyncio.run(asyncio.wait_for(play(), 30))


class OutOfReach:
    """A host that the network keeps from answering so many times, and then no longer."""

    def __init__(self, times: float) -> None:
        self.times, self.closed = times, list[str]()
        self.close, self.node_id = SimpleNamespace(remote=self._close), SimpleNamespace(remote=self._reach)

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.times > 0:
            self.times -= 1
            raise ActorUnavailableError("the connection broke", None)

    async def _close(self, lease: str) -> None:
        await self._reach()
        self.closed.append(lease)


def test_a_host_that_is_out_of_reach_for_a_moment_keeps_its_trials_and_closes_what_it_is_asked_to(monkeypatch):
    monkeypatch.setattr(timeouts, "LOST_HOST_AGAIN_SECONDS", 0.0)

    async def play() -> None:
        host = OutOfReach(0)
        broker = broker_with(host, slots=2)
        grants = [await granted(broker, trial) for trial in ("a", "b")]
        host.times = 5
        await broker.release("a")
        assert (list(broker._hosts), broker._deaths.of_trials) == (["h"], {})
        assert list(broker._hosts["h"].leases) == ["b"]
        assert host.closed == [grant.lease for grant in grants[:1] if grant is not None]

    asyncio.run(asyncio.wait_for(play(), 30))


def test_a_host_that_stays_out_of_reach_is_lost(monkeypatch):
    monkeypatch.setattr(timeouts, "LOST_HOST_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr("ray.kill", lambda actor: None)
    times = iter(range(1000))

    async def play() -> None:
        broker = broker_with(OutOfReach(math.inf), clock=lambda: float(next(times)))
        assert await granted(broker, "a") is not None
        await broker.not_reached("h")
        assert (broker._hosts, list(broker._deaths.of_trials)) == ({}, ["a"])
        assert next(times) >= timeouts.LOST_HOST_SECONDS

    asyncio.run(asyncio.wait_for(play(), 30))


@pytest.mark.parametrize(
    ("sizes", "at_most", "held"),
    [
        ((5, 5), 9, [4, 5]),
        ((2, 8, 8), 9, [2, 3, 4]),  # what one has no room for goes to the others
        ((3, 3), 9, [3, 3]),
        ((7, 7, 7), 2, [1, 1, 1]),  # each has one at least
    ],
)
def test_shares_of_hosts_add_up_to_the_bound_of_all(sizes: tuple[int, ...], at_most: int, held: list[int]) -> None:
    async def play() -> None:
        broker = Broker(
            TrialSpec(trainable="toy"), SlotLimits(slots="auto", at_most=at_most, largest=()), HostOptions()
        )
        for number, slots in enumerate(sizes):
            broker._hosts[str(number)] = host_with(SlowToClose(), slots)
        broker._tried = math.inf
        assert await broker.slots() == sum(held)
        answers = [await granted(broker, str(number), 0.0) for number in range(20)]
        assert sum(answer is not None for answer in answers) == sum(held) == await broker.slots()
        assert sorted(len(host.leases) for host in broker._hosts.values()) == held

    asyncio.run(play())
