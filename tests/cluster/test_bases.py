"""A host holds one base at a time, and takes another where trials wait for that one: without Ray."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fleets import Actors, World
from ray.exceptions import RayTaskError

from cluster import timeouts
from cluster.broker import Broker
from cluster.broker_answers import Lease, Refused
from cluster.errors import HostError
from cluster.hosts import HostOptions, SlotLimits
from trainables.contract import Failure
from trainables.engine_paths import EnginePath, Settled
from trainables.specs import QuantizationSpec, SchemeName, TrialSpec

pytestmark = pytest.mark.timeout(60)


def on(scheme: SchemeName) -> TrialSpec:
    return TrialSpec(trainable="toy", quantization=QuantizationSpec(scheme=scheme))


FIRST, OTHER, THIRD = on("nf4"), on("none"), on("fp4")


class Bases:
    """A broker whose hosts are those of a `World`; nothing of it waits for long."""

    def __init__(self, *nodes: str, bases: tuple[TrialSpec, ...] = (OTHER,), **options: Any) -> None:
        self.actors = Actors(*nodes)
        self.world = World(self.actors, bases=bases, **options)
        limits = SlotLimits(slots=2, at_most=8, largest=(FIRST,))
        self.broker = Broker(FIRST, limits, HostOptions(), self._no_run, lambda: self.world.now)
        self.world.fleet._limits = limits
        self.broker._fleet = self.world.fleet
        self.broker._hosts = self.world.fleet.hosts
        self.broker._deaths = self.world.fleet.deaths
        self.broker._tried = 1e9

    @staticmethod
    def _no_run(*_words: object) -> Any:
        raise AssertionError("no trial is asked for")

    async def begin(self) -> None:
        assert await self.world.begin() is None

    async def take(self, trial: str, spec: TrialSpec) -> str | None:
        """The base of the host that gave the trial a slot; None if the trial waits."""
        found = await self.broker.acquire(trial, 0.01, spec)
        assert not isinstance(found, Refused), found
        await self.world.settle()
        return self.broker._hosts[found.host_id].base if isinstance(found, Lease) else None

    async def lose(self, base: str) -> str:
        """A host with this base dies; its node."""
        host_id, host = next((key, each) for key, each in self.broker._hosts.items() if each.base == base)
        await self.broker.lost(host_id)
        await self.world.settle()
        return host.facts.node

    def held(self) -> list[str]:
        return sorted(host.base for host in self.broker._hosts.values())


@pytest.fixture
def made(monkeypatch):
    def make(*nodes: str, **options: Any) -> Bases:
        found = Bases(*nodes, **options)
        monkeypatch.setattr("cluster.fleet.HostActor", found.actors)
        monkeypatch.setattr("ray.kill", found.actors.kill)
        return found

    return make


async def test_a_host_changes_its_base_when_no_trial_of_its_base_is_there_and_not_before(made):
    bases = made("n")
    await bases.begin()
    assert bases.held() == ["nf4"]
    assert await bases.take("a", FIRST) == "nf4"
    assert await bases.take("b", OTHER) is None
    assert bases.held() == ["nf4"], "a still trains there"
    await bases.broker.vacate("a")
    await bases.world.settle()
    assert bases.held() == ["none"]
    assert await bases.take("b", OTHER) == "none"
    assert await bases.take("a", FIRST) is None
    assert bases.actors.living[0].base.quantization == OTHER.quantization
    assert [limits.base_name for limits in bases.actors.living[0].limits.largest] == ["none"]
    assert [line for line in bases.world.news if "changes its base" in line] == [
        "host changes its base (process 1 on n): no trial on nf4 is due, but on none"
    ]


async def test_hosts_are_shared_out_among_the_bases_as_they_start_and_one_may_take_a_base_that_nobody_named(made):
    bases = made("m", "n")
    await bases.begin()
    assert bases.held() == ["nf4", "none"]
    assert await bases.take("a", THIRD) == "fp4"
    assert bases.broker._fleet.slots_by_base in ({"nf4": 2, "fp4": 2}, {"none": 2, "fp4": 2})


async def test_each_base_has_the_path_that_its_first_host_settled(made):
    bases = made("m", "n")
    paths = [EnginePath(engine=engine, residency="4bit") for engine in ("flat", "peft")]
    bases.actors.settled = {node: Settled(path=path) for node, path in zip("mn", paths, strict=True)}
    await bases.begin()
    bases.actors.settled = {}
    assert (await bases.broker.slots_by_base())[2] == {"nf4": paths[0], "none": paths[1]}
    await bases.lose("none")
    assert [actor.base.training.engine for actor in bases.actors.living] == ["auto", "peft"]


async def test_a_host_that_evaluates_its_base_keeps_the_base_meanwhile(made):
    bases = made("n")
    await bases.begin()
    (host,) = bases.broker._hosts.values()
    host.evaluations += 1
    assert await bases.take("b", OTHER) is None
    assert bases.held() == ["nf4"]
    host.evaluations -= 1
    bases.broker._fleet.turn()
    await bases.world.settle()
    assert await bases.take("b", OTHER) == "none"


async def test_a_host_that_dies_while_it_takes_another_base_is_made_again_with_that_base(made):
    bases = made("n")
    await bases.begin()
    bases.actors.dies_loading = 1
    assert await bases.take("b", OTHER) is None
    assert bases.held() == []
    await bases.world.follow(60.0)
    assert await bases.take("b", OTHER) == "none"


async def test_a_host_that_is_lost_is_made_again_with_the_base_of_its_trials(made):
    bases = made("n", bases=(OTHER, THIRD))
    await bases.begin()
    assert await bases.take("b", THIRD) == "fp4"
    await bases.broker.lost(next(iter(bases.broker._hosts)))
    await bases.world.settle()
    assert bases.held() == ["fp4"], "before b asks for a slot again"
    assert await bases.take("b", THIRD) == "fp4"


async def test_an_idle_host_takes_the_base_of_a_host_for_which_there_is_no_room_any_more(made):
    bases = made("m", "n", hosts=2)
    await bases.begin()
    bases.actors.nodes = {"m": True}
    await bases.world.follow()
    assert await bases.take("b", OTHER) is None
    assert bases.held() == ["nf4"], "a host with the other base has just been asked for"
    bases.world.now += timeouts.HOST_PLACED_SECONDS + 1
    assert await bases.take("b", OTHER) == "none"


async def test_a_trial_whose_hosts_died_at_one_place_waits_for_no_place_where_hosts_hold_another_base(made):
    bases = made("m", "n", hosts=2)
    await bases.begin()
    for _ in range(2):
        assert await bases.take("a", FIRST) == "nf4"
        await bases.lose("nf4")
        await bases.world.follow(60.0)
    assert bases.held() == ["nf4", "none"]
    assert await bases.take("a", FIRST) == "nf4"
    assert await bases.take("b", FIRST) is None, "a is alone on its host"


async def test_a_trial_that_gives_its_slot_back_while_its_host_dies_waits_for_nothing(made):
    bases = made("n")
    await bases.begin()
    assert await bases.take("a", FIRST) == "nf4"
    bases.actors.kill(bases.actors.living[0])
    await bases.broker.vacate("a")
    await bases.world.follow(60.0)
    assert await bases.take("b", OTHER) == "none"


async def test_a_base_that_hosts_have_held_is_not_given_up(made):
    bases = made("n")
    await bases.begin()
    assert await bases.take("b", OTHER) == "none"
    bases.actors.dies_loading = 3
    await bases.lose("none")
    for _ in range(4):
        await bases.world.follow(120.0)
    assert await bases.take("b", OTHER) == "none"


@pytest.mark.parametrize("how", ["mistake", "deaths"])
async def test_a_base_that_no_host_can_hold_is_given_up_once_and_the_others_go_on(made, how, monkeypatch):
    bases = made("n")
    await bases.begin()
    start = bases.actors.remote

    def remote(base: str, limits: SlotLimits) -> Any:
        actor = start(base, limits)
        if actor.base.quantization == OTHER.quantization:

            async def fails(*_words: object) -> Any:
                raise RayTaskError("start", "", HostError("2.7 GB needed, 1.1 GB free"))

            if how == "mistake":
                actor.start.remote = fails
        return actor

    bases.actors.remote = remote
    bases.actors.dies_loading = 3 if how == "deaths" else 0
    assert await bases.take("b", OTHER) is None
    for _ in range(4):
        await bases.world.follow(120.0)
    found = await bases.broker.acquire("b", 0.01, OTHER)
    assert isinstance(found, Refused)
    assert found.kind == "infeasible"
    assert found.message.startswith("no host can hold the base none: ")
    assert isinstance(await bases.broker.evaluate_base(OTHER), Failure)
    assert len([line for line in bases.world.news if line.startswith("no host can hold the base none")]) == 1
    assert await bases.take("a", FIRST) == "nf4"
    assert (await bases.broker.slots_by_base())[1] == {"none"}


async def test_one_base_is_never_given_up(made):
    bases = made("n", bases=())
    await bases.begin()
    bases.actors.dies_loading = 5
    await bases.broker.lost(next(iter(bases.broker._hosts)))
    for _ in range(8):
        await bases.world.follow(120.0)
    await asyncio.sleep(0)
    assert await bases.take("a", FIRST) == "nf4"
