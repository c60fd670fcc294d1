"""The broker owns the hosts and leases their slots to trials. It is one actor on the driver's node and dies with it.

Each lease has its own id, which is never used again. When a trial asks again, the broker closes its old lease and gives
it a new one, so that no trial can train in a slot that another one has.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.hosts import PROCESS_LOST, HostActor, HostFacts, SlotLimits
from cluster.leases import Grant, NotReady, Ready, Refused
from trainables.contract import Evaluation, Failure, RowShape, StepRecord, Target, TargetModules
from trainables.specs import TrialSpec

NAME = "broker"
LEASE_SECONDS = 60.0
"""A lease that is not renewed for this time is over: its trial is gone."""
SUSPECT_AFTER = 2
"""After its hosts died this many times in a row, a trial trains alone, so that the next death has one cause."""
GUILTY_AFTER = 3
"""After its hosts died this many times in a row, the last time while it trained alone, a trial is refused."""
ANSWER_SECONDS = 5.0
"""How long a host may take to report the last steps of its trials."""
RETRY_SECONDS = 10.0
"""Time between two attempts to start a missing host."""


@dataclass
class _Lease:
    lease_id: str
    renewed: float


@dataclass
class _Host:
    actor: Any
    facts: HostFacts
    leases: dict[str, _Lease] = field(default_factory=dict)
    """Trial key -> its lease."""


class Broker:
    """The actor's class; see `create`.

    When it dies, Ray starts a new one, which knows no hosts: they died too. It starts new ones, and trials ask again.
    """

    def __init__(
        self,
        base: TrialSpec,
        limits: SlotLimits,
        hosts: int | Literal["auto"],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = base.model_dump_json()
        self._limits_of_all = self._limits = limits
        self._wanted = hosts
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._on_gpu = False
        self._first: Any = None
        """The first host, when `resolve` has asked it before the start."""
        self._data: Any = None
        self._rows: RowShape | None = None
        self._count = 0
        self._replacing: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._stopped_trials: set[str] = set()
        self._deaths: dict[str, int] = {}
        """Trial key -> hosts in a row that died while it trained there."""
        self._base_deaths = 0
        """Hosts that died while they evaluated the base."""
        self._suspects_waiting: dict[str, float] = {}
        self._starting = asyncio.Lock()
        self._tried = -RETRY_SECONDS
        self._news: list[str] = []
        self._changed = asyncio.Condition()

    async def resolve(self, values: tuple[TargetModules, ...]) -> list[Target] | NotReady | None:
        """Asks the first host, before it prepares or loads anything; see `Host.resolve`."""
        async with self._starting:
            problem = self._lay_out()
            if problem is not None:
                return problem
            self._first = self._make(self._on_gpu)
            try:
                targets: list[Target] | None = await self._first.resolve.remote(values)
            except (RayTaskError, *PROCESS_LOST) as error:
                return NotReady(message=_message(error))
        return targets

    async def start(self) -> Ready | NotReady:
        """Starts the hosts, one per GPU or the wanted number on CPUs; the first of them prepares the data."""
        async with self._starting:
            return await self._start_all()

    def _lay_out(self) -> NotReady | None:
        """Decides how many hosts there are and how many share a machine, or returns why the number is impossible."""
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = (gpus or 1) if self._wanted == "auto" else self._wanted
        if gpus and count > gpus:
            return NotReady(message=f"cluster.hosts: {count} asked for, but the cluster has {gpus} GPUs, one per host")
        machines = max(1, sum(node["Alive"] for node in ray.nodes()))
        self._count = count
        shared = {"hosts_per_machine": -(-count // machines), "at_most": max(1, self._limits_of_all.at_most // count)}
        self._limits = self._limits_of_all.model_copy(update=shared)
        self._on_gpu = gpus > 0
        return None

    async def _start_all(self) -> Ready | NotReady:
        problem = self._lay_out()
        if problem is not None:
            return problem
        first, self._first = self._first or self._make(self._on_gpu), None
        try:
            actors = [first, *(self._make(self._on_gpu) for _ in range(self._count - 1))]
            prepared = await actors[0].prepare.remote()
            self._data = ray.put(prepared.payload)
            self._rows = prepared.summary.shape
            facts = await asyncio.gather(*(self._start(actor) for actor in actors))
        except (RayTaskError, *PROCESS_LOST) as error:
            return NotReady(message=_message(error))
        for actor, fact in zip(actors, facts, strict=True):
            self._add(actor, fact)
        return Ready(data=prepared.summary, hosts=tuple(facts))

    async def stop(self) -> None:
        """Makes `goes_on` false from now on, so that trials end at their next call."""
        self._stopping = True

    async def stop_trial(self, trial_key: str) -> None:
        """From now on `goes_on` is false of this trial: it ends at its next call."""
        self._stopped_trials.add(trial_key)

    async def goes_on(self, trial_key: str) -> bool:
        """Whether the trial should go on training; renews its lease."""
        for host in self._hosts.values():
            if trial_key in host.leases:
                host.leases[trial_key].renewed = self._clock()
        return not self._stopping and trial_key not in self._stopped_trials

    async def news(self, known: int, wait_seconds: float) -> list[str]:
        """The lines about hosts lost and started, from number `known` on; waits for the next one when there is none."""
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: len(self._news) > known), wait_seconds)
        return self._news[known:]

    async def evaluate_base(self) -> Evaluation | Failure | None:
        """Evaluates the base without an adapter on the first host; None when the caller is to ask again.

        The driver asks before there are trials, so that the host does this first and no trial waits for it later. When
        the host dies, the caller asks again; when a second one dies, that is the answer.
        """
        first = next(iter(self._hosts.items()), None)
        if first is None:
            return None
        host_id, host = first
        try:
            answer: Evaluation | Failure = await host.actor.evaluate_base.remote()
        except PROCESS_LOST:
            await self.lost(host_id)
            self._base_deaths += 1
            return None if self._base_deaths < SUSPECT_AFTER else Failure(kind="failed", message="its host died, twice")
        except RayTaskError as error:
            return Failure(kind="failed", message=_message(error))
        return answer

    async def latest(self) -> dict[str, StepRecord]:
        """Trial key -> the last step that it took on its host. Leaves out hosts that do not answer in time."""
        hosts = list(self._hosts.values())
        calls = (asyncio.wait_for(host.actor.latest.remote(), ANSWER_SECONDS) for host in hosts)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        steps: dict[str, StepRecord] = {}
        for host, answer in zip(hosts, answers, strict=True):
            if not isinstance(answer, BaseException):
                steps |= {key: answer[lease.lease_id] for key, lease in host.leases.items() if lease.lease_id in answer}
        return steps

    async def slots(self) -> int:
        """The number of slots of the living hosts; begins to start those that are missing."""
        await self._revive()
        return sum(host.facts.slots for host in self._hosts.values())

    async def acquire(self, trial_key: str, wait_seconds: float) -> Grant | Refused | None:
        """Leases a free slot of the host that has the most of them; None when no slot becomes free in time."""
        await self._revive()
        await self.release(trial_key)
        await self._expire()
        deaths = self._deaths.get(trial_key, 0)
        if deaths >= GUILTY_AFTER:
            return Refused(message=f"its host died {deaths} times in a row, the last time with no other trial on it")
        if deaths >= SUSPECT_AFTER:
            self._suspects_waiting[trial_key] = self._clock()
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(lambda: self._place(trial_key)), wait_seconds)
            except TimeoutError:
                return None
            host_id = self._place(trial_key)
            if host_id is None:
                return None
            self._suspects_waiting.pop(trial_key, None)
            lease = f"{trial_key}-{uuid.uuid4().hex[:8]}"
            self._hosts[host_id].leases[trial_key] = _Lease(lease, self._clock())
            return Grant(lease, host_id, self._hosts[host_id].actor)

    async def release(self, trial_key: str, lease_id: str | None = None) -> None:
        """Ends the trial's lease, or only the one of `lease_id`. Its slot becomes free once the host has closed it."""
        held = [(*each, each[1].leases.get(trial_key)) for each in self._hosts.items()]
        for host_id, host, lease in held:  # A lease that is granted meanwhile stays.
            if lease is None or lease_id not in (None, lease.lease_id):
                continue
            try:
                await host.actor.close.remote(lease.lease_id)
            except PROCESS_LOST:
                await self.lost(host_id)
                return
            # While the host closed it, another call may have released it and given the trial a new lease.
            if host.leases.get(trial_key) is lease:
                del host.leases[trial_key]
            await self._tell()

    async def reached(self, trial_key: str) -> None:
        """Forgets the deaths of the trial's hosts: it came to a report point, so it is not what kills them."""
        self._deaths.pop(trial_key, None)

    async def lost(self, host_id: str) -> None:
        """Removes a host that died, with its leases, and begins to start another. Does nothing when called again."""
        gone = self._hosts.pop(host_id, None)
        if gone is None:
            return
        for trial_key in gone.leases:
            self._deaths[trial_key] = self._deaths.get(trial_key, 0) + 1
        ray.kill(gone.actor)
        trials = f"{len(gone.leases)} {'trial' if len(gone.leases) == 1 else 'trials'}"
        left = "another is made" if self._hosts else "no host is left: trials wait until one is there"
        self._news.append(f"host lost (process {gone.facts.pid} on {gone.facts.node}, {trials}); {left}")
        self._begin_replacing(gone.facts.device == "cuda")
        await self._tell()

    def _begin_replacing(self, on_gpu: bool) -> None:
        self._in_background(self._replace(on_gpu))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs work that takes minutes, such as loading a base, while others get their answers within seconds."""
        task = asyncio.create_task(work)
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    async def _start_anew(self) -> None:
        """Starts the hosts of a broker that Ray has restarted."""
        answer = await self.start()
        if isinstance(answer, NotReady):
            self._news.append(f"no host could be made: {answer.message}; trying again every {RETRY_SECONDS:.0f} s")
        else:
            self._news.append(f"hosts started: {_hosts(len(self._hosts), answer.slots)}")
        await self._tell()

    async def _replace(self, on_gpu: bool) -> None:
        actor = self._make(on_gpu)
        try:
            facts = await self._start(actor)
        except (RayTaskError, *PROCESS_LOST) as error:
            # `_revive` tries again later.
            self._news.append(f"a host could not be made: {_message(error)}; trying again every {RETRY_SECONDS:.0f} s")
        else:
            self._add(actor, facts)
            free = sum(host.facts.slots for host in self._hosts.values())
            self._news.append(f"host started (process {facts.pid} on {facts.node}): {_hosts(len(self._hosts), free)}")
        await self._tell()

    async def _revive(self) -> None:
        """Begins to start missing hosts: after Ray restarted this actor, or when a host could not be replaced."""
        if self._starting.locked() or self._clock() - self._tried < RETRY_SECONDS:
            return
        if self._data is None:
            self._tried = self._clock()
            self._in_background(self._start_anew())
        elif len(self._hosts) + len(self._replacing) < self._count:
            self._tried = self._clock()
            self._begin_replacing(on_gpu=ray.cluster_resources().get("GPU", 0) > 0)

    async def _expire(self) -> None:
        """Ends the leases that were not renewed in time."""
        now = self._clock()
        for host in list(self._hosts.values()):
            for trial_key in [key for key, lease in host.leases.items() if now - lease.renewed > LEASE_SECONDS]:
                await self.release(trial_key)
        waiting = self._suspects_waiting.items()
        self._suspects_waiting = {key: since for key, since in waiting if now - since <= LEASE_SECONDS}

    def _place(self, trial_key: str) -> str | None:
        """Chooses the host for a trial: an empty one for a suspect. No other trial is let in while a suspect waits."""
        suspect = self._is_suspect(trial_key)
        if self._suspects_waiting and not suspect:
            return None
        best, most = None, 0
        for host_id, host in self._hosts.items():
            free = host.facts.slots - len(host.leases)
            taken = bool(host.leases) if suspect else any(map(self._is_suspect, host.leases))
            if free > most and not taken:
                best, most = host_id, free
        return best

    def _is_suspect(self, trial_key: str) -> bool:
        return self._deaths.get(trial_key, 0) >= SUSPECT_AFTER

    def _make(self, on_gpu: bool) -> Any:
        options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": "SPREAD", "num_gpus": 1 if on_gpu else 0}
        return HostActor.options(**options).remote(self._base, self._limits)

    async def _start(self, actor: Any) -> HostFacts:
        facts: HostFacts = await actor.start.remote(self._data, self._rows)
        return facts

    def _add(self, actor: Any, facts: HostFacts) -> None:
        # An id is never used twice, also after Ray restarted this actor: trials name hosts that they lost.
        self._hosts[f"host-{uuid.uuid4().hex[:8]}"] = _Host(actor, facts)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def create(base: TrialSpec, limits: SlotLimits, hosts: int | Literal["auto"]) -> Any:
    """Starts the broker on the driver's own node. Others find it under NAME in the driver's namespace."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": NAME, "num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": here, "max_restarts": -1}
    return ray.remote(Broker).options(**options).remote(base, limits, hosts)


def _hosts(hosts: int, slots: int) -> str:
    return f"{hosts} {'host' if hosts == 1 else 'hosts'}, {slots} {'slot' if slots == 1 else 'slots'}"


def _message(error: RayError) -> str:
    cause = getattr(error, "cause", None)
    return str(cause) if cause is not None else f"a host died while it started: {str(error).splitlines()[0]}"
