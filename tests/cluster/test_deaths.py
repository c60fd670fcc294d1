"""Who is to blame for hosts that die: a trial, or the GPU that they are on. A broker without Ray."""

from __future__ import annotations

from typing import Any

import pytest
from fake_actors import actor
from fleets import TOY
from ray.exceptions import ActorDiedError

from cluster import host_states
from cluster.broker import Broker
from cluster.broker_answers import Lease, Refused
from cluster.deaths import GUILTY_AFTER, Deaths
from cluster.hosts import HostFacts, HostOptions, SlotLimits
from cluster.nodes import Node


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    monkeypatch.setattr("ray.kill", lambda actor: None)


def no_run(*_words: object) -> Any:
    raise AssertionError("no trial is asked for")


def broker(slots: int) -> Broker:
    """One that makes no host of its own."""
    made = Broker(TOY, SlotLimits(slots=slots, at_most=8, largest=()), HostOptions(), no_run, clock=lambda: 0.0)
    made._tried = 0.0
    return made


def test_a_row_of_deaths_begins_anew_after_a_result_and_a_death_with_its_node_is_none_of_it():
    deaths = Deaths()
    with_node = ActorDiedError()
    with_node.error_msg = "The actor died because its node has died."
    for error in (None, with_node, None):
        deaths.add("stub", error=error)
    assert (deaths.in_a_row("stub"), deaths.is_guilty("stub")) == (2, False)
    deaths.add("stub")
    assert deaths.is_guilty("stub")
    deaths.forget("stub")
    assert not deaths.is_guilty("stub")


def host(node_id: str, slots: int = 1, gpu_ids: tuple[str, ...] = ()) -> host_states.HostState:
    async def close(lease: str) -> None: ...

    facts = HostFacts(
        pid=1, node=node_id, device="cpu", slots=slots, estimated_bytes=None, node_id=node_id, gpu_ids=gpu_ids
    )
    return host_states.HostState(actor(close=close), facts, base=TOY.base_name)


class Gpus:
    """A broker with a host of two slots on each of the GPUs of one machine. A host that dies is there again at once."""

    def __init__(self, count: int) -> None:
        self.broker = broker(slots=2)
        self.broker._fleet.follow((Node("n", float(count), 0.0),))
        for gpu in range(count):
            self.put(gpu)

    def put(self, gpu: int) -> None:
        self.broker._hosts[str(gpu)] = host("n", slots=2, gpu_ids=(str(gpu),))

    async def die(self, gpu: int) -> None:
        await self.broker.lost(str(gpu))
        self.put(gpu)

    async def place(self, trial: str) -> int | str:
        """The GPU that a trial is placed on, or why it is on none."""
        await self.broker.vacate(trial)
        found = await self.broker.acquire(trial, 0.01)
        return int(found.host_id) if isinstance(found, Lease) else "waits" if found is None else found.message


async def test_a_gpu_that_kills_its_hosts_is_left_and_no_trial_is_to_blame():
    gpus = Gpus(2)
    assert [await gpus.place(trial) for trial in "abcd"] == [0, 1, 0, 1]
    await gpus.die(1)
    assert [await gpus.place(trial) for trial in "bd"] == [1, 1], "no other slot is free"
    await gpus.die(1)
    assert [await gpus.place(trial) for trial in "bd"] == ["waits", "waits"]
    assert [await gpus.place(trial) for trial in "ef"] == [1, 1], "nobody waits for an empty host"
    await gpus.broker.vacate("a")
    assert await gpus.place("b") == 0
    await gpus.broker.vacate("c")
    assert await gpus.place("d") == 0
    await gpus.die(1)
    assert [await gpus.place(trial) for trial in "ef"] == [1, 1]
    await gpus.broker.vacate("b")
    gpus.broker.reached("d")
    await gpus.die(0)
    assert await gpus.place("e") == 0, "one at which it has not died"


async def test_a_trial_is_not_refused_while_another_gpu_may_show_that_the_first_is_to_blame():
    gpus = Gpus(2)
    del gpus.broker._hosts["1"]
    gpus.broker._fleet._starting.append(host_states.Starting(object(), 0.0, node_id="n"))
    for _ in range(GUILTY_AFTER):
        assert await gpus.place("a") in (0, "waits")
        await gpus.die(0)
    assert await gpus.place("a") == "waits"
    gpus.put(1)
    gpus.broker._fleet._starting.clear()
    assert await gpus.place("a") == 1


async def test_a_trial_that_kills_its_hosts_on_two_gpus_trains_alone_and_is_refused():
    gpus = Gpus(2)
    assert [await gpus.place(trial) for trial in "abcd"] == [0, 1, 0, 1]
    for _ in range(2):
        await gpus.die(0)
        placed = [await gpus.place(trial) for trial in "ac"]
    assert placed == ["waits", "waits"]
    await gpus.broker.vacate("b")
    assert await gpus.place("a") == 1
    await gpus.die(1)
    assert await gpus.place("a") == 0, "it has died with others alone, so it gets an empty host"
    assert await gpus.place("d") == 1
    assert await gpus.place("e") == 1, "nobody joins a suspect"
    await gpus.die(0)
    assert await gpus.place("a") == "its host died 4 times in a row, the last time with no other trial on it"
    assert await gpus.place("c") == "waits", "it has died on one GPU only, and the other one is full"


async def test_while_a_suspect_waits_only_the_emptiest_host_takes_no_others():
    gpus = Gpus(2)
    assert [await gpus.place(trial) for trial in "abcd"] == [0, 1, 0, 1]
    for number in (0, 1):
        gpus.broker._deaths.add("s", gpus.broker._hosts[f"{number}"].facts.place)
    assert await gpus.place("s") == "waits"
    await gpus.broker.vacate("a")
    assert await gpus.place("e") == "waits", "host 0 is the emptiest, and host 1 is full"
    await gpus.broker.vacate("b")
    assert await gpus.place("e") == 1
    await gpus.broker.vacate("c")
    assert await gpus.place("s") == 0


async def test_a_trial_is_not_to_blame_for_hosts_that_went_with_their_nodes():
    one = broker(slots=1)
    for number in range(GUILTY_AFTER):
        one._hosts[str(number)] = host(f"spot{number}")
        assert isinstance(await one.acquire("a", 0.05), Lease)
        await one.lost(str(number))
        one._fleet.follow((Node("head", 0.0, 0.0), Node("stays", 1.0, 0.0)))
    for number in range(GUILTY_AFTER):
        one._hosts[f"n{number}"] = host("stays")
        assert isinstance(await one.acquire("a", 0.05), Lease), "its nodes are gone"
        await one.lost(f"n{number}")
    one._hosts["last"] = host("stays")
    assert isinstance(await one.acquire("a", 0.05), Refused), "these nodes are there still"
