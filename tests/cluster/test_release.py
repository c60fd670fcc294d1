"""Whose lease is released when a trial has had several: the broker without Ray, on hosts that only take time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from cluster.broker import Broker
from cluster.fleet import Host
from cluster.hosts import HostFacts, HostOptions, SlotLimits
from cluster.leases import Grant
from trainables.specs import TrialSpec

TOY = TrialSpec(trainable="toy", steps=100)
NEVER = -1000.0


class Method:
    """A method of a Ray actor's handle."""

    def __init__(self, closed: list[str]) -> None:
        self.closed = closed
        self.turns = 50
        """How often others have their turn during a call: the first one is slow."""

    async def remote(self, lease_id: str) -> None:
        turns, self.turns = self.turns, 1
        for _ in range(turns):
            await asyncio.sleep(0)
        self.closed.append(lease_id)


class FakeHost:
    """A host that closes leases."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.close = Method(self.closed)


def made(hosts: int) -> tuple[Broker, list[FakeHost]]:
    """A broker with so many hosts of one slot each, which makes no other."""
    broker = Broker(TOY, SlotLimits(slots=1, at_most=4, largest=(TOY,)), HostOptions(), clock=lambda: NEVER)
    broker._tried = NEVER
    fakes = [FakeHost() for _ in range(hosts)]
    for number, fake in enumerate(fakes):
        facts = HostFacts(pid=number, node="here", device="cpu", slots=1, estimated_bytes=1)
        broker._hosts[str(number)] = Host(fake, facts)
    return broker, fakes


async def acquired(broker: Broker) -> Grant:
    granted = await broker.acquire("a", 1.0)
    assert isinstance(granted, Grant)
    return granted


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_a_lease_of_an_earlier_time_is_not_released_in_place_of_the_present_one() -> None:
    """The process of a trial that was parked hears late that another process has the trial."""

    async def work() -> None:
        broker, (host,) = made(1)
        before = await acquired(broker)
        now = await acquired(broker)
        assert host.closed == [before.lease]
        await broker.release("a", before.lease)
        assert host.closed == [before.lease]
        await broker.release("a", now.lease)
        assert host.closed == [before.lease, now.lease]

    run(work())


def test_a_lease_that_is_granted_on_another_host_while_an_old_one_is_released_stays() -> None:
    async def work() -> None:
        broker, hosts = made(2)
        before = await acquired(broker)
        roomier = broker._hosts["1"]
        roomier.facts = roomier.facts.model_copy(update={"slots": 2})
        _, now = await asyncio.gather(broker.release("a"), acquired(broker))
        assert (before.host_id, now.host_id) == ("0", "1")
        assert [lease.lease_id for lease in roomier.leases.values()] == [now.lease]
        assert hosts[1].closed == []

    run(work())
