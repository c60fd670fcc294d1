"""A fleet of hosts without Ray, on actors that only remember what was asked, for tests: `import fleets`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import SimpleNamespace

from ray.exceptions import ActorDiedError, RayTaskError

from cluster.broker_answers import NotReady
from cluster.errors import HostError
from cluster.fleet import Fleet
from cluster.hosts import HostFacts, HostOptions, SlotLimits
from cluster.nodes import Node
from trainables.contract import Prepared, Summary
from trainables.engine_paths import Settled
from trainables.specs import TrialSpec

TOY = TrialSpec(trainable="toy")
PREPARED = Prepared(summary=Summary(fingerprint="f", train_rows=0, eval_rows=0), payload=b"")


class Actors:
    """Stands for Ray: places actors on nodes that have a free GPU, in the order in which they were made."""

    def __init__(self, *nodes: str) -> None:
        self.nodes = dict.fromkeys(nodes, True)
        self.leaving: set[str] = set()
        self.living: list[SimpleNamespace] = []
        self.made = 0
        self.deadly: set[str] = set()  # nodes where actors die as soon as they are placed
        self.prepare: Callable[[str], object] = lambda node: PREPARED  # of an actor on a node
        self.dies_loading = 0  # so many actors die while they load
        self.blind: set[str] = set()  # nodes whose GPUs PyTorch does not see
        self.hardware: Mapping[str, str] = {}  # node -> what its host computes on; others do not say
        self.settled: Mapping[str, Settled] = {}  # node -> how its host computes passes; others do not say

    def options(self, **options: object) -> Actors:
        assert options["num_gpus"] == 1
        return self

    def remote(self, base: str, limits: SlotLimits) -> SimpleNamespace:
        self.made += 1
        actor = SimpleNamespace(
            number=self.made, node="", moves=0, limits=limits, base=TrialSpec.model_validate_json(base)
        )

        async def place() -> str:
            while not actor.node:
                await self._turn(actor)
                free = [node for node in self.nodes if node not in {each.node for each in self.living} | self.leaving]
                actor.node = free[0] if free else ""
            return str(actor.node)

        async def prepare() -> object:
            await self._turn(actor)
            return self.prepare(actor.node)

        async def start(data: object, rows: object, beside: tuple[HostFacts, ...]) -> HostFacts:
            actor.beside = beside
            await self._turn(actor)
            if self.dies_loading:
                self.dies_loading -= 1
                raise ActorDiedError
            if actor.node in self.blind:
                raise RayTaskError("start", "", HostError("PyTorch sees none of the GPUs"))
            node = actor.node
            known = {"hardware": self.hardware.get(node, ""), "settled": self.settled.get(node), "node_id": node}
            return HostFacts(pid=actor.number, node=node, device="cpu", slots=2, estimated_bytes=None, **known)

        async def move_out() -> None:
            await self._turn(actor)
            actor.moves += 1

        async def close(lease: str) -> None:
            await self._turn(actor)

        for method in (place, prepare, start, move_out, close):
            setattr(actor, "node_id" if method is place else method.__name__, SimpleNamespace(remote=method))
        self.living.append(actor)
        return actor

    async def _turn(self, actor: SimpleNamespace) -> None:
        await asyncio.sleep(0)
        if actor not in self.living or actor.node in self.deadly:
            raise ActorDiedError

    def kill(self, actor: SimpleNamespace) -> None:
        if actor in self.living:
            self.living.remove(actor)

    def look(self) -> tuple[Node, ...]:
        busy = [each.node for each in self.living]
        head = Node("head", 0.0, 0.0)
        return (head, *(Node(name, 1.0, 1.0 - busy.count(name), name in self.leaving) for name in self.nodes))

    async def looked(self) -> tuple[Node, ...]:
        return self.look()


class World:
    """A fleet on such actors, its clock and its news."""

    def __init__(self, actors: Actors, **options: object) -> None:
        self.now, self.news, self.actors = 0.0, list[str](), actors
        limits = SlotLimits(slots=2, at_most=8, largest=())
        settings = HostOptions.model_validate({"may_grow": True, **options})
        self.fleet = Fleet(TOY, limits, settings, lambda: self.now, self.news.append)

    async def begin(self) -> NotReady | None:
        assert self.fleet.lay_out(self.actors.look()) is None
        self.fleet._data = object()
        answer = await asyncio.wait_for(self.fleet.start(self.actors.looked), 30)
        await self.settle()
        return answer

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def follow(self, seconds: float = 3.0) -> None:
        self.now += seconds
        self.fleet.follow(self.actors.look())
        await self.settle()

    def hosts(self) -> list[str]:
        return sorted(host.facts.node for host in self.fleet.hosts.values() if not host.is_leaving)
