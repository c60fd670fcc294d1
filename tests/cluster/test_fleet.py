"""How hosts are made, given up and replaced: the fleet without Ray, on actors that only remember what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import pytest
from fleets import PREPARED, Actors, World

from cluster import fleet
from cluster.hosts import HostPlace, memory_share
from cluster.nodes import Node
from trainables.engine_paths import EnginePath, Settled


@pytest.fixture
def begin(monkeypatch) -> Callable[..., Awaitable[World]]:
    """Begins a fleet whose cluster has the nodes that are named."""

    async def begun(*nodes: str, blind: Collection[str] = (), hardware: Any = None, **options: object) -> World:
        actors = Actors(*nodes)
        actors.blind, actors.hardware = set(blind), hardware or {}
        monkeypatch.setattr(fleet, "HostActor", actors)
        monkeypatch.setattr("ray.kill", actors.kill)
        world = World(actors, **options)
        assert await world.begin() is None
        return world

    return begun


async def test_a_node_that_joins_has_a_host_and_one_that_is_lost_has_none(begin):
    world = await begin("a", "b")
    assert world.hosts() == ["a", "b"]
    world.actors.nodes["c"] = True
    await world.follow()
    assert (world.hosts(), world.fleet.standing) == (["a", "b", "c"], (3, 6))
    assert world.news == ["host started (process 3 on c): 3 hosts, 6 slots"]
    del world.actors.nodes["a"]
    await world.follow()
    assert world.hosts() == ["b", "c"]
    await world.follow()
    assert world.fleet.standing == (2, 4)


async def test_hosts_of_another_type_than_the_first_are_named_with_the_way_out(begin):
    world = await begin(
        "a", "b", hardware={"a": "cuda bfloat16", "b": "cuda bfloat16", "c": "cuda float32", "e": "cuda float32"}
    )
    assert world.news == []
    world.actors.nodes |= {"c": True, "d": True}
    await world.follow()
    assert world.news[0] == (
        "warning: hosts compute in different types (cuda bfloat16 on a, cuda float32 on c), so that losses of "
        "their trials do not compare: launch with quantization.compute_dtype=float32, or leave the nodes of one "
        "type out"
    )
    assert not any("warning" in line for line in world.news[1:]), "d does not say its type"
    world.news.clear()
    for node in "abc":
        world.actors.leaving.add(node)
    world.actors.nodes |= {"e": True}
    await world.follow()
    assert world.hosts() == ["d", "e"]
    assert not any("warning" in line for line in world.news), "e has a type that was told of"


@pytest.mark.parametrize(
    ("before", "warns"),
    [("cpu bfloat16", True), ("cpu float32", False), ("", False)],
)
async def test_a_sweep_that_goes_on_with_hosts_of_another_type_is_told_once(begin, before, warns):
    world = await begin("a", hardware={"a": "cuda float32", "b": "cuda float32"}, hardware_before=before)
    world.actors.nodes["b"] = True
    await world.follow()
    warnings = [line for line in world.news if "warning" in line]
    assert warnings == warns * [
        f"warning: this sweep's losses were computed in {before} before it was resumed, and are computed in cuda "
        "float32 on a now: the two do not compare: stop it and resume it where hosts compute in bfloat16, or "
        "launch it anew with quantization.compute_dtype=float32"
    ]


async def test_a_host_whose_node_is_leaving_takes_no_trials_and_ends_when_those_it_has_have_moved(begin):
    world = await begin("a")
    [(host_id, host)] = world.fleet.hosts.items()
    host.leases["t"] = "t-1"
    world.actors.nodes["b"] = True
    world.actors.leaving.add("a")
    await world.follow()
    assert host.is_leaving
    assert host.actor.moves >= 1
    assert (world.hosts(), world.fleet.held) == (["b"], 2)
    assert world.news[0] == "host given up (process 1 on a, 1 trial moves): its node is leaving the cluster"
    world.fleet.end_if_empty(host_id)
    assert host.actor in world.actors.living, "its trial is there still"
    host.leases.clear()
    world.fleet.end_if_empty(host_id)
    assert host.actor not in world.actors.living
    assert world.fleet.held == 1


async def test_a_host_that_loads_holds_its_gpu_and_one_that_waits_for_a_gpu_does_not(begin):
    world = await begin("a", hosts=3)
    assert (world.actors.made, world.fleet.held) == (3, 1)
    world.actors.nodes["b"] = True
    seen = []
    for _ in range(20):
        await asyncio.sleep(0)
        seen.append((world.fleet.held, world.fleet.standing.hosts))
    assert (2, 1) in seen, "it loads"
    assert seen[-1] == (2, 2)


async def test_a_number_above_the_gpus_waits_with_ray_and_is_not_asked_for_twice(begin):
    world = await begin("a", hosts=3)
    assert world.hosts() == ["a"]
    for _ in range(5):
        await world.follow(700.0)
    assert world.actors.made == 3
    world.actors.nodes |= {"b": True, "c": True, "d": True}
    await world.follow()
    assert world.hosts() == ["a", "b", "c"], "no more than the number"


@pytest.mark.parametrize("are_ready", [False, True], ids=["they load", "they are ready"])
async def test_hosts_are_not_made_twice_when_their_number_is_told_while_they_start(monkeypatch, are_ready):
    actors = Actors("a", "b", "c")
    monkeypatch.setattr(fleet, "HostActor", actors)
    world = World(actors)
    world.fleet._data = object()

    async def told() -> tuple[Node, ...]:
        world.fleet.follow(actors.look())  # as by `Broker.want`, of a broker that Ray has made anew
        if are_ready:
            await world.settle()
        return actors.look()

    await world.fleet.ask_first(actors.looked, lambda host: host.node_id.remote())
    assert await world.fleet.start(told) is None
    assert (actors.made, world.hosts()) == (3, ["a", "b", "c"])


async def test_fewer_hosts_are_wanted_and_those_with_the_fewest_trials_go(begin):
    world = await begin("a", "b", "c")
    busy = next(host for host in world.fleet.hosts.values() if host.facts.node == "b")
    busy.leases["t"] = "t-1"
    world.fleet.asked = 1
    await world.follow()
    assert world.hosts() == ["b"]
    assert {each.node for each in world.actors.living} == {"b"}


async def test_a_host_that_is_made_beside_others_is_told_of_them(begin):
    world = await begin("a", hosts=2)
    [host] = world.fleet.hosts.values()
    host.facts = host.facts.model_copy(update={"node_id": "b"})
    world.actors.nodes["b"] = True
    await world.follow()
    assert (world.fleet.standing.hosts, world.actors.living[-1].beside) == (2, (host.facts,))


@pytest.mark.parametrize(
    ("free", "hosts", "beside", "share"),
    [
        (64, 4, (), 16),
        (28, 4, (12, 12, 12), 16),  # In place of one that died.
        (12, 4, (12, 12, 12), 12),  # Others took what it had.
        (40, 4, (12, 12), 16),
        (10, 4, (27, 27), 5),  # Two more were asked for, and the first two took all.
        (10, 1, (27,), 10),
    ],
)
def test_hosts_on_a_cpu_share_its_memory_equally_whenever_they_are_made(free, hosts, beside, share):
    assert memory_share(free, hosts, beside) == share


async def test_every_node_is_lost_and_one_host_waits_for_the_next(begin):
    world = await begin("a", "b", "c")
    world.actors.nodes.clear()
    for actor in list(world.actors.living):
        world.actors.kill(actor)
    for host_id in list(world.fleet.hosts):
        world.fleet.lose(host_id)
    assert world.news[-1].endswith("no host is left: trials wait until one is there")
    made = world.actors.made
    for _ in range(300):
        await world.follow()
    assert world.fleet.standing == (0, 0)
    assert world.actors.made - made <= 3, "hosts that wait are not made again and again"
    assert len(world.news) == 3
    world.actors.nodes |= {"x": True, "y": True}
    await world.follow()
    await world.follow()
    assert world.hosts() == ["x", "y"]


async def test_hosts_that_die_at_once_are_made_again_less_and_less_often(begin):
    world = await begin("a")
    for _ in range(40):
        for host_id in list(world.fleet.hosts):
            world.actors.kill(world.fleet.hosts[host_id].actor)
            world.fleet.lose(host_id)
        world.fleet.deaths.forget(HostPlace("b", ()))  # Another place is no evidence for this one.
        await world.follow(1.0)
    assert world.actors.made < 10
    world.fleet.deaths.forget(HostPlace("a", ()))
    await world.follow(60.0)
    made = world.actors.made
    for host_id in list(world.fleet.hosts):
        world.fleet.lose(host_id)
    await world.settle()
    assert world.actors.made == made + 1, "after a report point, at once"


async def test_hosts_that_cannot_be_made_are_tried_again_every_ten_seconds(begin):
    world = await begin("a")
    world.actors.deadly = {"a"}
    for host_id in list(world.fleet.hosts):
        world.fleet.lose(host_id)
    await world.settle()
    assert len(world.news) == 1, "the first time its node may be at fault"
    for _ in range(30):
        await world.follow(1.0)
    assert world.actors.made <= 5
    assert "trying again every 10 s" in world.news[-1]
    world.actors.deadly = set()
    await world.follow(10.0)
    assert world.hosts() == ["a"]


async def test_a_node_whose_gpu_pytorch_does_not_see_is_told_of_once_and_holds_up_no_other(begin):
    world = await begin("a", "b", "c", blind={"b"})
    for _ in range(100):
        await world.follow()
    assert world.hosts() == ["a", "c"]
    assert sum("PyTorch sees none" in line for line in world.news) <= 1


GROUPED = EnginePath(engine="grouped", residency="4bit")


async def test_hosts_compute_passes_as_the_first_one_settled_it(begin, monkeypatch):
    monkeypatch.setattr("ray.put", lambda payload: payload)
    world = await begin("a")
    world.fleet.prepared(PREPARED.model_copy(update={"settled": Settled(path=GROUPED)}))
    world.actors.nodes["b"] = True
    await world.follow()
    first, later = (each.base for each in world.actors.living)
    assert (first.training.engine, first.quantization.residency) == ("auto", "auto")
    assert later == GROUPED.given_to(first)


async def test_what_a_hosts_self_test_refuses_is_told_once_for_its_node(begin):
    refused = Settled(path=GROUPED, refused=("H100: flat is not used: it computes NaN",))
    world = await begin("a")
    world.actors.settled = {"b": refused}
    for _ in range(2):
        world.actors.nodes["b"] = True
        await world.follow()
        del world.actors.nodes["b"]
        await world.follow()
    told = [line for line in world.news if "not used" in line]
    assert told == ["b: H100: flat is not used: it computes NaN"]
