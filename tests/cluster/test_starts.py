"""How a sweep's first hosts start, and what becomes of those that die meanwhile; without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from fleets import PREPARED, TOY, Actors, World
from ray.exceptions import ActorDiedError, RayTaskError, RuntimeEnvSetupError

from cluster import broker, fleet, timeouts
from cluster.broker import Broker
from cluster.broker_answers import Lease, NotReady, Ready
from cluster.deaths import GUILTY_AFTER, failure_message
from cluster.hosts import HostOptions, SlotLimits
from trainables.engine_paths import EnginePath, Settled
from trainables.errors import DataError
from trainables.specs import QuantizationSpec, TrialSpec

QUANTISED, PLAIN = EnginePath(engine="flat", residency="4bit"), EnginePath(engine="flat", residency="dequantised")
PLAIN_TOY = TrialSpec(trainable="toy", quantization=QuantizationSpec(scheme="none"))
TRIED = "tried 3 times, and each time a host died while it started: The actor died"


@pytest.fixture
def on(monkeypatch) -> Callable[[Actors], Actors]:
    """Takes actors for Ray's; there is no pause before another host is made."""
    for name in ("HOST_SOON_SECONDS", "HOST_RETRY_SECONDS"):
        monkeypatch.setattr(timeouts, name, 0.0)
    monkeypatch.setattr("ray.put", lambda payload: payload)

    def on(actors: Actors) -> Actors:
        monkeypatch.setattr(fleet, "HostActor", actors)
        monkeypatch.setattr("ray.kill", actors.kill)
        monkeypatch.setattr(broker, "_look", actors.looked)
        return actors

    return on


@pytest.mark.parametrize(("deadly", "hosts"), [({"b"}, ["a"]), ({"a", "b"}, [])])
async def test_a_start_goes_on_with_the_hosts_that_it_has_when_another_dies(on, deadly, hosts):
    world = World(on(Actors("a", "b")))
    world.actors.deadly = deadly
    answer = await world.begin()
    assert (answer is None, world.hosts()) == (bool(hosts), hosts)


def no_run(*_words: object) -> Any:
    raise AssertionError("no trial is asked for")


class FirstHost:
    """A broker on such actors, whose first host does something of its own when it prepares the data."""

    def __init__(self, actors: Actors, bases: tuple[TrialSpec, ...] = ()) -> None:
        self.actors, self.prepared_on = actors, list[str]()
        limits = SlotLimits(slots=2, at_most=8, largest=())
        self.broker = Broker(TOY, limits, HostOptions(may_grow=True, bases=bases), no_run, lambda: 0.0)

    async def start(self, prepare: Callable[[str], object]) -> Ready | NotReady:
        def noted(node: str) -> object:
            self.prepared_on.append(node)
            return prepare(node)

        self.actors.prepare = noted
        return await self.broker.start()


async def test_a_first_host_whose_node_goes_while_it_prepares_is_replaced_as_often_as_that_happens(on):
    spots = [f"spot{number}" for number in range(2 * GUILTY_AFTER)]
    first = FirstHost(on(Actors(*spots, "stays")))

    def prepare(node: str) -> object:
        if node != "stays":
            del first.actors.nodes[node]
            raise ActorDiedError
        return PREPARED

    answer = await first.start(prepare)
    assert isinstance(answer, Ready)
    assert [host.node for host in answer.hosts] == ["stays"]
    assert first.prepared_on == [*spots, "stays"]


@pytest.mark.parametrize(("deaths", "paths"), [(0, [QUANTISED, None]), (1, [None])])
async def test_the_path_that_a_sweep_keeps_is_that_of_its_first_base(on, deaths, paths):
    actors = on(Actors("a", "b"))
    actors.settled, actors.dies_loading = {"a": Settled(path=QUANTISED), "b": Settled(path=PLAIN)}, deaths
    first = FirstHost(actors, bases=(PLAIN_TOY,))
    answer = await first.start(lambda _node: PREPARED)
    assert isinstance(answer, Ready)
    assert [host.settled and host.settled.path for host in answer.hosts] == paths


async def test_first_hosts_that_die_on_nodes_that_stay_are_tried_three_times_and_it_is_no_mistake(on):
    deaths = iter([True, False])

    def dies(node: str) -> object:
        if next(deaths, True):
            raise ActorDiedError
        return PREPARED

    assert isinstance(await FirstHost(on(Actors("a"))).start(dies), Ready)
    first = FirstHost(on(Actors("a")))
    answer = await first.start(dies)
    assert isinstance(answer, NotReady)
    assert first.prepared_on == ["a"] * GUILTY_AFTER == ["a"] * 3
    assert (answer.is_mistake, first.actors.living) == (False, [])
    assert answer.message.startswith(TRIED)


@pytest.mark.parametrize(("deaths", "attempts"), [(4, 2), (4 * (GUILTY_AFTER - 1), GUILTY_AFTER), (100, 3)])
async def test_hosts_that_die_together_are_one_attempt(on, deaths, attempts):
    actors = on(Actors(*"abcd"))
    actors.dies_loading = deaths
    answer = await World(actors).begin()
    assert actors.made == attempts * 4
    assert (answer is None) == (deaths < 100)
    assert answer is None or answer.message.startswith(TRIED)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeEnvSetupError("pip failed:\n  ERROR: No matching distribution found for einopps\n"),
            "cluster.runtime_env: it cannot be made ready for a host: ERROR: No matching distribution found for einopp",
        ),
        (RayTaskError("prepare", "", DataError("data.train: x.jsonl has no rows")), "data.train: x.jsonl has no rows"),
    ],
)
async def test_a_mistake_is_told_in_its_own_words_and_is_not_tried_again(on, error, told):
    first = FirstHost(on(Actors("a")))

    def prepare(node: str) -> object:
        raise error

    answer = await first.start(prepare)
    assert isinstance(answer, NotReady)
    assert (answer.is_mistake, len(first.prepared_on)) == (True, 1)
    assert answer.message.startswith(told)


def test_a_death_is_told_with_what_ray_knows_of_its_cause():
    error = ActorDiedError()
    error.error_msg += (
        "\n\tclass_name: Host\n\tpid: 7\nIts worker process has died: end of file. Some common causes include: many."
    )
    assert failure_message(error) == ("a host died while it started: Its worker process has died: end of file.")


async def test_whoever_asks_again_for_the_start_gets_the_same_hosts(on):
    first = FirstHost(on(Actors("a", "b")))
    together = await asyncio.gather(first.broker.start(), first.broker.start())
    later = await first.broker.start()
    assert isinstance(later, Ready)
    assert list(together) == [later, later]
    assert len(later.hosts) == first.actors.made == 2


async def test_a_broker_that_ray_has_restarted_starts_its_hosts_anew(on, monkeypatch):
    first = FirstHost(on(Actors("a")))
    with monkeypatch.context() as lost:
        lost.setattr(broker, "_look", Mock(side_effect=ConnectionError("the head service is gone")))
        assert await first.broker.acquire("t", 0.05) is None
    assert isinstance(await first.broker.acquire("t", 10.0), Lease)
    assert (await first.broker.news(0, 0.0)).lines == [
        "no host could be made: ConnectionError: the head service is gone; trying again every 0 s",
        "hosts started: 1 host, 2 slots",
    ]


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


async def test_hosts_hold_their_places_from_when_they_are_placed_until_they_die(on):
    """All GPUs are busy for 5 hours; one host dies after 10 s of loading, and the next one is placed after an hour."""
    actors = SlowActors()
    world = World(on(actors), hosts=1, gpus_per_host=1)
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
