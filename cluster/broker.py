"""The broker owns the hosts and leases their slots to trials. It is an actor on the driver's node, and ends with it.

Each lease has its own id, which is never used again. When a trial asks again, the broker closes the trial's old lease
and gives it a new one, so that no trial can train in the slot of another trial.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import ray
from ray.exceptions import ActorUnavailableError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import timeouts
from cluster.deaths import SUSPECT_AFTER, HostDeaths, failure_message, one_line
from cluster.fleet import Fleet
from cluster.host_states import begin, hosts_and_slots
from cluster.hosts import PROCESS_LOST, HostOptions, HostPlace, SlotLimits
from cluster.leases import Grant, Lease, News, NotReady, Ready, Refused
from cluster.loop import Finalist
from cluster.nodes import Node, gpus, look
from cluster.pace import Silent
from trainables.contract import Evaluation, Failure, StepRecord, Target, TargetModules
from trainables.specs import TrialSpec

NAME = "broker"


class Broker:
    """The actor's class; see `create`.

    When a broker dies, its hosts die too. Ray starts a new broker, which starts new hosts, and trials ask again.
    """

    def __init__(
        self, base: TrialSpec, limits: SlotLimits, options: HostOptions, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._id = uuid.uuid4().hex
        self._news: list[str] = []
        self._changed = asyncio.Condition()
        self._fleet = Fleet(base, limits, options, clock, self._news.append)
        self._hosts = self._fleet.hosts
        self._following: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._stopped_trials: set[str] = set()
        self._leaving: frozenset[str] = frozenset()
        """Ray's ids of the nodes that end soon."""
        self._deaths = HostDeaths(self._fleet.is_gone, self._staying)
        self._evaluation_deaths: dict[str, list[str]] = {}
        """Method (`evaluate_base`, `evaluate_finalists`) -> Ray's ids of the nodes whose hosts died in it."""
        self._suspects_waiting: dict[str, float] = {}
        self._starting = asyncio.Lock()
        self._tried = -timeouts.HOST_RETRY_SECONDS
        self._ready: Ready | None = None

    async def outlook(self) -> str | None:
        """Returns, in words, what the start waits for; None if there is room for all hosts now, or can never be."""
        problem = self._fleet.lay_out(await _look())
        return None if problem is not None else self._fleet.outlook()

    async def resolve(self, values: tuple[TargetModules, ...]) -> list[Target] | NotReady | None:
        """Asks the first host, before it prepares or loads anything; see `Host.resolve`."""
        async with self._starting:
            return await self._fleet.ask_first(_look, lambda host: host.resolve.remote(values))

    async def start(self) -> Ready | NotReady:
        """Starts the wanted hosts; returns when those that the cluster has room for now are ready.

        The first host prepares the data. Then the hosts follow the nodes of the cluster. A caller that lost the answer
        asks again and gets the same `Ready`; no second set of hosts is made.
        """
        async with self._starting:
            answer = self._ready or await self._start_all()
            self._ready = answer if isinstance(answer, Ready) else None
        if isinstance(answer, NotReady):
            self._fleet.forget_first()
        if self._following is None and self._fleet.is_prepared:
            self._following = asyncio.create_task(self._follow())
        return answer

    async def _start_all(self) -> Ready | NotReady:
        prepared = await self._fleet.ask_first(_look, lambda host: host.prepare.remote())
        if isinstance(prepared, NotReady):
            return prepared
        self._fleet.prepared(prepared)
        problem = await self._fleet.start(_look)
        if problem is not None:
            return problem
        hosts = tuple(host.facts for host in self._hosts.values())
        return Ready(data=prepared.summary, hosts=hosts, held=self._fleet.held, held_seconds=self._fleet.held_seconds())

    async def _follow(self) -> None:
        """Fits the hosts to the nodes every few seconds, until the broker ends."""
        told = ""
        while True:
            await asyncio.sleep(timeouts.FOLLOW_NODES_SECONDS)
            try:
                seen = await _look()
                self._leaving = frozenset(node.node_id for node in seen if node.is_leaving)
                self._fleet.follow(seen)
            except Exception as error:  # What Ray raises when its head service does not answer, among others.
                words = one_line(error)
                if words != told:
                    self._news.append(f"the hosts cannot follow the nodes, tried again every few seconds: {words}")
                    told = words
            await self._tell()

    async def want(self, hosts: int | Literal["auto"]) -> None:
        """Sets the number of hosts from now on. Trials of surplus hosts move to the others."""
        self._fleet.asked = hosts
        self._fleet.follow(await _look())
        await self._tell()

    async def standing(self) -> tuple[int, int, int, tuple[Silent, ...]]:
        """Returns the number of staying hosts, of their slots and of held places, and the hosts that may hang."""
        silent = (host.silent(self._clock()) for host in self._hosts.values())
        return *self._fleet.standing, self._fleet.held, tuple(filter(None, silent))

    async def stop(self) -> None:
        """Makes `goes_on` false from now on, so that trials end at their next call."""
        self._stopping = True

    async def stop_trial(self, trial_key: str) -> None:
        """Makes `goes_on` false for this trial from now on, so that it ends at its next call."""
        self._stopped_trials.add(trial_key)

    async def goes_on(self, trial_key: str, node_id: str = "") -> bool:
        """Tells whether the trial should go on training in its process on this node; renews its lease."""
        for host in self._hosts.values():
            if trial_key in host.leases:
                host.leases[trial_key].renewed = self._clock()
        return not self._stopping and trial_key not in self._stopped_trials and node_id not in self._leaving

    async def news(self, known: int, wait_seconds: float) -> News:
        """Returns the lines about hosts from number `known` on; if there is none, waits `wait_seconds` for the next."""
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: len(self._news) > known), wait_seconds)
        return News(self._id, self._news[known:])

    async def evaluate_base(self) -> Evaluation | Failure | None:
        """Evaluates the base without an adapter on the first host; None if the caller is to ask again.

        The host's trials wait meanwhile, as for the answers of other trials. The caller asks again when the host dies;
        after a second death the answer is a Failure.
        """
        answer: Evaluation | Failure | None = await self._evaluated("evaluate_base")
        return answer

    async def evaluate_finalists(self, finalists: tuple[Finalist, ...]) -> list[Evaluation | Failure] | Failure | None:
        """Scores the answers of adapters on the first host, in their order; None and Failure as in `evaluate_base`.

        The driver asks when no trial is left: see `PackLoop.evaluate_finalists`.
        """
        answer: list[Evaluation | Failure] | Failure | None = await self._evaluated("evaluate_finalists", finalists)
        return answer

    async def _evaluated(self, method: str, *arguments: object) -> Any:
        """Returns the first host's answer; None if there is no host or it died, a Failure once two hosts died of it."""
        self._revive()
        if not self._hosts:
            return None
        host_id, host = next(iter(self._hosts.items()))
        try:
            answer = await self._answer(host_id, getattr(host.actor, method).remote, *arguments)
        except PROCESS_LOST:
            await self.lost(host_id)
            deaths = self._evaluation_deaths.setdefault(method, [])
            deaths.append(host.facts.node_id)
            guilty = sum(not self._fleet.is_gone(node_id) for node_id in deaths) >= SUSPECT_AFTER
            return Failure(kind="failed", message="its host died, twice") if guilty else None
        except RayTaskError as error:
            return Failure(kind="failed", message=failure_message(error))
        return answer

    async def latest(self) -> dict[str, StepRecord]:
        """Returns trial key -> last step on the trial's host. Leaves out hosts that do not answer in time."""
        answers = await asyncio.gather(*(host.latest(self._clock) for host in self._hosts.values()))
        return {key: step for steps in answers for key, step in steps.items()}

    async def slots(self) -> int:
        """Returns the slots of the hosts that stay; begins to start hosts if Ray has restarted this actor."""
        self._revive()
        return self._fleet.standing.slots

    async def acquire(self, trial_key: str, wait_seconds: float) -> Grant | Refused | None:
        """Leases a free slot to the trial, whose former lease ends; None if no slot becomes free in time."""
        self._revive()
        await self.release(trial_key)
        self._expire()
        if self._deaths.is_guilty(trial_key):
            deaths = self._deaths.number(trial_key)
            return Refused(message=f"its host died {deaths} times in a row, the last time with no other trial on it")
        if self._deaths.is_suspect(trial_key):
            self._suspects_waiting[trial_key] = self._clock()
        else:
            self._suspects_waiting.pop(trial_key, None)
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._place(trial_key)), wait_seconds)
            host_id = self._place(trial_key)
            if host_id is None or any(trial_key in host.leases for host in self._hosts.values()):
                return None  # Another request of the trial was faster; its next one ends that lease first.
            self._suspects_waiting.pop(trial_key, None)
            lease = f"{trial_key}-{uuid.uuid4().hex[:8]}"
            self._hosts[host_id].leases[trial_key] = Lease(lease, self._clock())
            return Grant(lease, host_id, self._hosts[host_id].actor)

    async def release(self, trial_key: str, lease_id: str | None = None) -> None:
        """Ends the trial's lease, if `lease_id` is its id or None. The slot is free once the host closed the lease."""
        held = [(*each, each[1].leases.get(trial_key)) for each in self._hosts.items()]
        for host_id, host, lease in held:  # A lease that is granted meanwhile stays.
            if lease is None or lease_id not in (None, lease.lease_id):
                continue
            try:
                await self._answer(host_id, host.actor.close.remote, lease.lease_id)
            except PROCESS_LOST:
                await self.lost(host_id)
                return
            # While the host closed it, another call may have released it and given the trial a new lease.
            if host.leases.get(trial_key) is lease:
                del host.leases[trial_key]
            self._fleet.end_if_empty(host_id)
            await self._tell()

    async def reached(self, trial_key: str) -> None:
        """Forgets the deaths of the trial's hosts: a trial that came to a report point does not kill hosts."""
        self._deaths.forget(trial_key)
        for host in self._hosts.values():
            if trial_key in host.leases:
                self._fleet.proved(host.facts.place)

    async def lost(self, host_id: str) -> None:
        """Removes a host that died, with its leases, and has another made. A second call does nothing."""
        gone = self._fleet.lose(host_id)
        if gone is None:
            return
        self._deaths.add(gone.facts, gone.leases)
        await self._tell()

    async def not_reached(self, host_id: str) -> None:
        """Removes a host that a caller cannot reach, unless the broker reaches it: the network may be at fault."""
        host, since = self._hosts.get(host_id), self._clock()
        while host is not None and self._hosts.get(host_id) is host:
            try:
                # A host that is slow to answer is not gone: Ray reports a dead one.
                with suppress(TimeoutError):
                    await asyncio.wait_for(host.actor.node_id.remote(), timeouts.HOST_ANSWER_SECONDS)
                return
            except PROCESS_LOST as error:
                if not isinstance(error, ActorUnavailableError) or self._clock() - since >= timeouts.LOST_HOST_SECONDS:
                    await self.lost(host_id)
                    return
            await asyncio.sleep(timeouts.LOST_HOST_AGAIN_SECONDS)

    async def _answer(self, host_id: str, ask: Callable[..., Any], *arguments: object) -> Any:
        """Returns a host's answer to a call that can be repeated. Raises one of PROCESS_LOST once the host is lost."""
        while True:
            try:
                return await ask(*arguments)
            except ActorUnavailableError:
                await self.not_reached(host_id)
                if host_id not in self._hosts:
                    raise

    async def _start_anew(self) -> None:
        try:
            answer = await self.start()
        except Exception as error:  # What Ray raises when its head service does not answer, among others.
            answer = NotReady(message=one_line(error))
        if isinstance(answer, NotReady):
            self._news.append(
                f"no host could be made: {answer.message}; trying again every {timeouts.HOST_RETRY_SECONDS:.0f} s"
            )
        else:
            self._news.append(f"hosts started: {hosts_and_slots(*self._fleet.standing)}")
        await self._tell()

    def _revive(self) -> None:
        """Begins to start the hosts if Ray has restarted this actor: then it has no data."""
        is_busy = self._starting.locked() or self._clock() - self._tried < timeouts.HOST_RETRY_SECONDS
        if is_busy or self._following is not None or self._fleet.is_prepared:
            return
        self._tried = self._clock()
        begin(self._start_anew(), self._tasks)

    def _expire(self) -> None:
        """Begins to release the leases that were not renewed in time. Waits for none, since a host may hang."""
        now = self._clock()
        for host in self._hosts.values():
            for trial_key, lease in host.leases.items():
                if now - lease.renewed > timeouts.LEASE_SECONDS:
                    lease.renewed = now  # else the next call would end it once more
                    begin(self.release(trial_key, lease.lease_id), self._tasks)
        self._suspects_waiting = {
            key: at for key, at in self._suspects_waiting.items() if now - at <= timeouts.LEASE_SECONDS
        }

    def _place(self, trial_key: str) -> str | None:
        """Chooses the host for a trial: an empty host for a suspect, else the host with the most free slots.

        While a suspect waits, the emptiest host is kept for it. A host at a place where none of the trial's hosts died
        is better, and a must if all of them died at one place.
        """
        suspect = self._deaths.is_suspect(trial_key)
        if self._deaths.is_guilty(trial_key):
            return None
        closed = {key for key, host in self._hosts.items() if any(map(self._deaths.is_suspect, host.leases))}
        if self._suspects_waiting:
            others = [key for key, host in self._hosts.items() if key not in closed and not host.is_leaving]
            closed |= set(sorted(others, key=lambda each: len(self._hosts[each].leases))[:1])
        must_leave = self._deaths.must_leave(trial_key)
        best, most, shares = None, (False, 0), self._fleet.shares
        for host_id, host in self._hosts.items():
            free = host.room(shares.get(host))
            taken = bool(host.leases) if suspect else host_id in closed
            is_other = not self._deaths.was_at(trial_key, host.facts.place)
            if free and not taken and (is_other or not must_leave) and (is_other, free) > most:
                best, most = host_id, (is_other, free)
        return best

    def _staying(self) -> set[HostPlace]:
        ready = {host.facts.place for host in self._hosts.values() if not host.is_leaving}
        return ready | self._fleet.loading

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _look() -> tuple[Node, ...]:
    """Looks at the nodes in another thread: Ray may need seconds to answer."""
    return await asyncio.get_running_loop().run_in_executor(None, look)


def create(base: TrialSpec, limits: SlotLimits, options: HostOptions) -> Any:
    """Starts the broker on the driver's own node. Others find it under NAME in the driver's namespace.

    Settles once whether hosts hold GPUs: a broker that Ray restarts may find all GPU nodes gone.
    """
    if options.gpus_per_host == "auto":
        options = options.model_copy(update={"gpus_per_host": 1 if gpus(look()) else 0})
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    settings = {"name": NAME, "num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": here, "max_restarts": -1}
    return ray.remote(Broker).options(**settings).remote(base, limits, options)
