"""How a sweep's first hosts start, and what becomes of those that die meanwhile; without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from fleets import PREPARED, TOY, Actors, World
from ray.exceptions import ActorDiedError, RuntimeEnvSetupError

from cluster import broker, fleet, timeouts
from cluster.broker import Broker
from cluster.deaths import MOST_START_DEATHS, message
from cluster.hosts import HostOptions, SlotLimits
from cluster.leases import NotReady, Ready
from cluster.nodes import Node


@pytest.fixture
def at_once(monkeypatch) -> None:
    """No pause before another host is made."""
    for name in ("HOST_SOON_SECONDS", "HOST_RETRY_SECONDS"):
        monkeypatch.setattr(timeouts, name, 0.0)


def test_a_start_goes_on_with_the_hosts_that_it_has_when_another_dies(monkeypatch, at_once):
    actors = Actors("a", "b")
    monkeypatch.setattr(fleet, "HostActor", actors)
    monkeypatch.setattr("ray.kill", actors.kill)

    async def scene(deadly: set[str]) -> tuple[NotReady | None, list[str]]:
        world, actors.deadly = World(actors), deadly
        return await world.begin(), world.hosts()

    assert asyncio.run(scene({"b"})) == (None, ["a"])
    actors.living.clear()
    answer, hosts = asyncio.run(scene({"a", "b"}))
    assert (type(answer), hosts) == (NotReady, [])


class FirstHost:
    """A broker that starts on such actors, whose hosts do something of their own when they prepare the data."""

    def __init__(self, monkeypatch, *nodes: str) -> None:
        self.actors, self.prepared_on = Actors(*nodes), list[str]()
        monkeypatch.setattr(fleet, "HostActor", self.actors)
        monkeypatch.setattr("ray.kill", self.actors.kill)
        monkeypatch.setattr("ray.put", lambda payload: payload)

        async def look() -> tuple[Node, ...]:
            return self.actors.look()

        monkeypatch.setattr(broker, "_look", look)

    def start(self, prepare: Callable[[str], object]) -> Ready | NotReady:
        def noted(node: str) -> object:
            self.prepared_on.append(node)
            return prepare(node)

        self.actors.prepare = noted

        async def scene() -> Ready | NotReady:
            made = Broker(TOY, SlotLimits(slots=2, at_most=8, largest=()), HostOptions(may_grow=True), lambda: 0.0)
            answer = await asyncio.wait_for(made.start(), 30)
            if made._following is not None:
                made._following.cancel()
            return answer

        return asyncio.run(scene())


def test_a_first_host_whose_node_goes_while_it_prepares_is_replaced_as_often_as_that_happens(monkeypatch, at_once):
    spots = [f"spot{number}" for number in range(2 * MOST_START_DEATHS)]
    first = FirstHost(monkeypatch, *spots, "stays")

    def prepare(node: str) -> object:
        if node != "stays":
            del first.actors.nodes[node]
            raise ActorDiedError
        return PREPARED

    answer = first.start(prepare)
    assert isinstance(answer, Ready)
    assert [host.node for host in answer.hosts] == ["stays"]
    assert first.prepared_on == [*spots, "stays"]


def test_first_hosts_that_die_on_nodes_that_stay_are_tried_three_times_and_it_is_no_mistake(monkeypatch, at_once):
    first = FirstHost(monkeypatch, "a")
    times = iter(range(100))

    def once(node: str) -> object:
        if next(times) == 0:
            raise ActorDiedError
        return PREPARED

    def always(node: str) -> object:
        raise ActorDiedError

    assert isinstance(first.start(once), Ready)
    first = FirstHost(monkeypatch, "a")
    answer = first.start(always)
    assert isinstance(answer, NotReady)
    assert first.prepared_on == ["a"] * MOST_START_DEATHS == ["a"] * 3
    assert (answer.is_mistake, first.actors.living) == (False, [])
    assert answer.message.startswith("tried 3 times, and each time a host died while it started: The actor died")


def test_hosts_that_die_together_are_one_attempt(monkeypatch, at_once):
    names = "abcd"
    monkeypatch.setattr("ray.kill", lambda actor: fleet.HostActor.kill(actor))

    def begin(deaths: int) -> tuple[NotReady | None, Actors]:
        actors = Actors(*names)
        actors.dies_loading = deaths
        monkeypatch.setattr(fleet, "HostActor", actors)

        async def scene() -> NotReady | None:
            return await World(actors).begin()

        return asyncio.run(scene()), actors

    for attempts in (1, MOST_START_DEATHS - 1):
        answer, actors = begin(attempts * len(names))
        assert (answer, actors.made) == (None, (attempts + 1) * len(names))
    answer, actors = begin(100)
    assert isinstance(answer, NotReady)
    assert answer.message.startswith("tried 3 times, and each time a host died while it started: The actor died")
    assert actors.made == MOST_START_DEATHS * len(names)


def test_packages_that_cannot_be_installed_are_a_mistake_that_is_not_tried_again(monkeypatch, at_once):
    first = FirstHost(monkeypatch, "a")

    def install(node: str) -> object:
        raise RuntimeEnvSetupError("pip failed:\n  ERROR: No matching distribution found for einopps\n")

    answer = first.start(install)
    assert isinstance(answer, NotReady)
    assert (answer.is_mistake, len(first.prepared_on)) == (True, 1)
    assert answer.message == (
        "cluster.runtime_env: it cannot be made ready for a host: ERROR: No matching distribution found for einopps"
    )


def test_a_death_is_told_with_what_ray_knows_of_its_cause():
    error = ActorDiedError()
    error.error_msg += (
        "\n\tclass_name: Host\n\tpid: 7\nIts worker process has died: end of file. Some common causes include: many."
    )
    assert message(error) == ("a host died while it started: Its worker process has died: end of file.")


def test_whoever_asks_again_for_the_start_gets_the_same_hosts(monkeypatch, at_once):
    first = FirstHost(monkeypatch, "a", "b")

    async def scene() -> None:
        made = Broker(TOY, SlotLimits(slots=2, at_most=8, largest=()), HostOptions(may_grow=True), lambda: 0.0)
        together = await asyncio.wait_for(asyncio.gather(made.start(), made.start()), 30)
        later = await asyncio.wait_for(made.start(), 30)
        assert made._following is not None
        made._following.cancel()
        assert isinstance(later, Ready)
        assert list(together) == [later, later]
        assert len(later.hosts) == first.actors.made == 2

    asyncio.run(scene())


class SlowActors(Actors):
    """They load until `loaded` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = asyncio.Event()

    def remote(self, base: str, limits: SlotLimits) -> SimpleNamespace:
        actor = super().remote(base, limits)
        load = actor.start.remote

        async def start(*words: object) -> object:
            await self.loaded.wait()
            return await load(*words)

        actor.start = SimpleNamespace(remote=start)
        return actor


def test_hosts_hold_their_places_from_when_they_are_placed_until_they_die(monkeypatch, at_once):
    """All GPUs are busy for 5 hours; one host dies after 10 s of loading, and the next one is placed after an hour."""
    actors = SlowActors()
    monkeypatch.setattr(fleet, "HostActor", actors)
    monkeypatch.setattr("ray.kill", actors.kill)

    async def scene() -> None:
        world = World(actors, hosts=1, gpus_per_host=1)
        begun = asyncio.create_task(world.begin())
        await world.settle()
        world.now += 5 * 3600.0
        actors.nodes["a"] = True
        await world.settle()
        assert (world.fleet.held, world.fleet.held_seconds()) == (1, 0.0)
        world.now += 10.0
        del actors.nodes["a"]
        actors.deadly.add("a")
        actors.loaded.set()
        await world.settle()
        actors.loaded.clear()
        world.now += 3600.0
        actors.nodes["b"] = True
        await world.settle()
        assert (world.fleet.held, world.fleet.held_seconds()) == (1, 10.0)
        world.now += 60.0
        actors.loaded.set()
        assert await begun is None
        assert (world.hosts(), world.fleet.held_seconds()) == (["b"], 70.0)

    asyncio.run(scene())
