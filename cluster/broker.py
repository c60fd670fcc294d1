"""The broker: owns the hosts and leases their slots to trials. One actor on the driver's node; it dies with that.

A lease has an id of its own, never used twice. A trial that asks again gets a new lease and its old one is closed
first, so nobody can train in a slot that was given to another.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.hosts import HostActor, HostFacts, Room
from trainables.contract import Summary
from trainables.specs import Spec, TrialSpec

NAME = "broker"
START_ATTEMPTS = 3
"""How often a host that dies while it starts is made again."""


class Ready(Spec):
    """All hosts run."""

    data: Summary
    hosts: tuple[HostFacts, ...]

    @property
    def slots(self) -> int:
        """Slots of all hosts."""
        return sum(host.slots for host in self.hosts)


class NotReady(Spec):
    """Why no host can run; the user can mend it."""

    message: str


@dataclass(frozen=True)
class Grant:
    """A lease on a slot. The host is a Ray actor handle."""

    lease: str
    host_id: str
    host: Any


@dataclass
class _Host:
    actor: Any
    facts: HostFacts
    leases: dict[str, str]
    """Trial key -> lease."""


class Broker:
    """The actor's class; see `create`."""

    def __init__(self, base: TrialSpec, room: Room, hosts: int | Literal["auto"]) -> None:
        self._base = base.model_dump_json()
        self._room = room
        self._wanted = hosts
        self._hosts: dict[str, _Host] = {}
        self._data: Any = None
        self._longest_row = 0
        self._made = 0
        self._granted = 0
        self._stopping = False
        self._changed = asyncio.Condition()

    async def start(self) -> Ready | NotReady:
        """Starts the hosts, one per GPU or the wanted number on CPUs; the first of them prepares the data."""
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = (gpus or 1) if self._wanted == "auto" else self._wanted
        if gpus and count > gpus:
            return NotReady(message=f"cluster.hosts: {count} asked for, but the cluster has {gpus} GPUs, one per host")
        machines = max(1, sum(node["Alive"] for node in ray.nodes()))
        self._room = self._room.model_copy(update={"hosts_per_machine": -(-count // machines)})
        try:
            actors = [self._make(on_gpu=gpus > 0) for _ in range(count)]
            prepared = await actors[0].prepare.remote()
            self._data = ray.put(prepared.payload)
            self._longest_row = prepared.summary.longest_row
            facts = await asyncio.gather(*(self._start(actor) for actor in actors))
        except (RayTaskError, RayActorError) as error:
            return NotReady(message=_message(error))
        for actor, fact in zip(actors, facts, strict=True):
            self._add(actor, fact)
        return Ready(data=prepared.summary, hosts=tuple(facts))

    async def stop(self) -> None:
        """From now on `goes_on` is false: trials end at their next call."""
        self._stopping = True

    async def goes_on(self) -> bool:
        """Whether trials should go on training."""
        return not self._stopping

    async def slots(self) -> int:
        """Slots of the hosts that live now."""
        return sum(host.facts.slots for host in self._hosts.values())

    async def acquire(self, trial_key: str, wait_seconds: float) -> Grant | None:
        """A lease on a free slot, on the host with the most of them; None when none became free in time."""
        await self.release(trial_key)
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(self._roomiest), wait_seconds)
            except TimeoutError:
                return None
            host_id = self._roomiest()
            if host_id is None:
                return None
            self._granted += 1
            lease = f"{trial_key}-{self._granted}"
            self._hosts[host_id].leases[trial_key] = lease
            return Grant(lease, host_id, self._hosts[host_id].actor)

    async def release(self, trial_key: str) -> None:
        """Ends the trial's lease, if it has one. The slot is free once the host has closed it."""
        for host_id, host in list(self._hosts.items()):
            lease = host.leases.get(trial_key)
            if lease is None:
                continue
            try:
                await host.actor.close.remote(lease)
            except RayActorError:
                await self.lost(host_id)
                return
            host.leases.pop(trial_key, None)
            await self._tell()

    async def lost(self, host_id: str) -> None:
        """Replaces a host that died; its leases are gone with it. Saying so twice replaces it once."""
        gone = self._hosts.pop(host_id, None)
        if gone is None:
            return
        ray.kill(gone.actor)
        for _ in range(START_ATTEMPTS):
            actor = self._make(on_gpu=gone.facts.device == "cuda")
            try:
                self._add(actor, await self._start(actor))
            except RayActorError:
                continue
            break
        await self._tell()

    def _make(self, on_gpu: bool) -> Any:
        options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": "SPREAD", "num_gpus": 1 if on_gpu else 0}
        return HostActor.options(**options).remote(self._base, self._room)

    async def _start(self, actor: Any) -> HostFacts:
        facts: HostFacts = await actor.start.remote(self._data, self._longest_row)
        return facts

    def _add(self, actor: Any, facts: HostFacts) -> None:
        self._made += 1
        self._hosts[f"host-{self._made}"] = _Host(actor, facts, {})

    def _roomiest(self) -> str | None:
        free = {host_id: host.facts.slots - len(host.leases) for host_id, host in self._hosts.items()}
        best = max(free, key=lambda host_id: free[host_id], default=None)
        return best if best is not None and free[best] > 0 else None

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def create(base: TrialSpec, room: Room, hosts: int | Literal["auto"]) -> Any:
    """The broker's actor handle, on the driver's own node, found by others under NAME in the driver's namespace."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": NAME, "num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": here}
    return ray.remote(Broker).options(**options).remote(base, room, hosts)


def _message(error: RayTaskError | RayActorError) -> str:
    cause = getattr(error, "cause", None)
    return str(cause) if cause is not None else f"a host died while it started: {str(error).splitlines()[0]}"
