"""The broker owns the hosts and the trials: it gives trials slots and answers what became of them.

It is an actor on the driver's node, and ends with it. It knows no files of trials: see `Run`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal, Protocol, TypeVar

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import timeouts
from cluster.broker_answers import Lease, News, NotReady, Ready, Refused
from cluster.deaths import SUSPECT_AFTER, failure_message, one_line
from cluster.fleet import Fleet
from cluster.host_states import begin, hosts_and_slots
from cluster.hosts import PROCESS_LOST, HostOptions, SlotLimits
from cluster.loop import Finalist
from cluster.nodes import Node, gpus, look
from cluster.pace import Silent
from trainables.contract import Evaluation, Failure, StepRecord, Target, TargetModules
from trainables.engine_paths import EnginePath
from trainables.specs import TrialSpec

T = TypeVar("T")
NAME = "broker"
WRITERS = 4
"""Trials whose files are in the broker's memory at the same time. Further files wait in Ray's object store."""


class Run(Protocol):
    """A trial that runs in the broker's process. The broker knows neither its files nor what its results mean."""

    async def answer(self, question: Any, wait_seconds: float) -> Any:
        """Returns the result that a question asks for; None if it is not there in time."""

    async def end(self) -> None:
        """Ends the run and frees its slot."""


class Broker:
    """The actor's class; see `create`.

    When a broker dies, its hosts die too. Ray starts a new broker, which starts new hosts, and trials are asked for
    again: their runs go on from their files.
    """

    def __init__(
        self,
        base: TrialSpec,
        limits: SlotLimits,
        options: HostOptions,
        run: Callable[..., Run],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts nothing; `run` makes the run of a trial from this broker, a question, and the trial's run before."""
        self._run = run
        self._runs: dict[str, tuple[int, Run]] = {}
        """Trial key -> number of its run, and the run."""
        self._writers = asyncio.Semaphore(WRITERS)
        self._threads = ThreadPoolExecutor(WRITERS, thread_name_prefix="files")
        self._clock = clock
        self._id = uuid.uuid4().hex
        self._news: list[str] = []
        self._changed = asyncio.Condition()
        self._fleet = Fleet(base, limits, options, clock, self._say)
        self._hosts = self._fleet.hosts
        self._following: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._stopped_trials: set[str] = set()
        self._deaths = self._fleet.deaths
        self._suspects_waiting: set[str] = set()
        self._starting = asyncio.Lock()
        self._tried = -timeouts.HOST_RETRY_SECONDS
        self._ready: Ready | None = None

    def _say(self, line: str) -> None:
        """Adds a line about hosts, and lets those that wait for a slot look again."""
        self._news.append(line)
        begin(self._tell(), self._tasks)

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
        first = self._fleet.base_of(None)
        # The sweep keeps one path, and a path of another base is none of its first base.
        hosts = tuple(
            host.facts if host.base == first else host.facts.model_copy(update={"settled": None})
            for host in sorted(self._hosts.values(), key=lambda host: host.base != first)
        )
        return Ready(data=prepared.summary, hosts=hosts, held=self._fleet.held, held_seconds=self._fleet.held_seconds())

    async def _follow(self) -> None:
        """Fits the hosts to the nodes every few seconds, until the broker ends."""
        told = ""
        while True:
            await asyncio.sleep(timeouts.FOLLOW_NODES_SECONDS)
            try:
                self._fleet.follow(await _look())
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
        """Makes `goes_on` false from now on, so that trials save themselves and end."""
        self._stopping = True

    async def stop_trial(self, trial_key: str) -> None:
        """Makes `goes_on` false for this trial from now on, so that it saves itself and ends."""
        self._stopped_trials.add(trial_key)

    async def next_result(self, trial_key: str, number: int, question: Any, wait_seconds: float) -> Any:
        """Returns the next result of a trial; None if it is not there in time. See `Run.answer`.

        Args:
            number: the number of the trial's run, higher than those of its runs before it was parked.
        """
        present, run = self._runs.get(trial_key, (0, None))
        if number < present:
            await asyncio.sleep(wait_seconds)  # A process that was cut off asks again and again.
            return None
        if run is None or number > present:
            run = self._run(self, question, run)
            self._runs[trial_key] = number, run
        return await run.answer(question, wait_seconds)

    async def release(self, trial_key: str, number: int) -> None:
        """Ends the run of a trial that is parked or over."""
        held = self._runs.get(trial_key)
        if held is None:
            self._fleet.waiting.pop(trial_key, None)  # It was expected, and its stub never asked.
        elif held[0] <= number:
            await held[1].end()
            if self._runs.get(trial_key) is held:
                del self._runs[trial_key]

    # For runs

    def goes_on(self, trial_key: str) -> bool:
        """Tells whether the trial should go on training."""
        return not self._stopping and trial_key not in self._stopped_trials

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Runs work with files in a thread. References to Ray's objects become the objects.

        Raises:
            ObjectLostError: a reference's object was lost with its node.
        """
        async with self._writers:
            there = [await each if isinstance(each, ray.ObjectRef) else each for each in arguments]
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *there)

    @staticmethod
    def put(large: Any) -> Any:
        """Returns a reference to an object. Takes time: call it in a thread."""
        return ray.put(large)

    async def news(self, known: int, wait_seconds: float) -> News:
        """Returns the lines about hosts from number `known` on; if there is none, waits `wait_seconds` for the next."""
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: len(self._news) > known), wait_seconds)
        return News(self._id, self._news[known:])

    async def evaluate_base(self, base: TrialSpec | None = None) -> Evaluation | Failure | None:
        """Evaluates a base without an adapter on its first host; None if the caller is to ask again.

        The host's trials wait meanwhile, as for the answers of other trials. The caller asks again when the host dies;
        after a second death the answer is a Failure.

        Args:
            base: a spec on this base; None for the first base.
        """
        answer: Evaluation | Failure | None = await self._evaluated("evaluate_base", base)
        return answer

    async def evaluate_finalists(self, finalists: tuple[Finalist, ...]) -> list[Evaluation | Failure] | Failure | None:
        """Scores the answers of adapters of one base on its first host, in order; None, Failure as in `evaluate_base`.

        The driver asks when no trial is left: see `PackLoop.evaluate_finalists`.
        """
        answer: list[Evaluation | Failure] | Failure | None = await self._evaluated(
            "evaluate_finalists", finalists[0].spec if finalists else None, finalists
        )
        return answer

    async def _evaluated(self, method: str, spec: TrialSpec | None, *arguments: object) -> Any:
        """Returns the answer of the first host with the base; None if there is no host or it died, else a Failure."""
        self._revive()
        base = self._fleet.base_of(spec)
        asked = f"{method} {base}"
        if base in self._fleet.refused:
            return Failure(kind="infeasible", message=self._fleet.refused[base])
        found = next(((key, host) for key, host in self._hosts.items() if host.base == base), None)
        if found is None:
            self._fleet.waiting[asked] = base
            self._fleet.turn()
            return None
        self._fleet.waiting.pop(asked, None)
        host_id, host = found
        host.evaluations += 1
        try:
            answer = await self.call(host_id, lambda actor: getattr(actor, method).remote(*arguments))
        except PROCESS_LOST:
            self._deaths.add(asked, host.facts.place)
            # A third death might be blamed on a trial, which is alone on its host by then.
            is_guilty = self._deaths.in_a_row(asked) >= SUSPECT_AFTER
            return Failure(kind="failed", message="its host died, twice") if is_guilty else None
        except RayTaskError as error:
            return Failure(kind="failed", message=failure_message(error))
        finally:
            host.evaluations -= 1
            self._fleet.turn()
        return answer

    async def latest(self) -> dict[str, StepRecord]:
        """Returns trial key -> last step on the trial's host. Leaves out hosts that do not answer in time."""
        answers = await asyncio.gather(*(host.latest(self._clock) for host in self._hosts.values()))
        return {key: step for steps in answers for key, step in steps.items()}

    async def slots(self) -> int:
        """Returns the slots of the hosts that stay; begins to start hosts if Ray has restarted this actor."""
        self._revive()
        return self._fleet.standing.slots

    async def slots_by_base(self) -> tuple[dict[str, int], frozenset[str], dict[str, EnginePath]]:
        """Returns `Fleet.slots_by_base`, the bases that no host can hold, and `Fleet.paths`. Else as `slots`."""
        self._revive()
        return self._fleet.slots_by_base, frozenset(self._fleet.refused), self._fleet.paths

    async def expect(self, trial_key: str, spec: TrialSpec) -> None:
        """Counts the trial among those that wait for a slot on its base, before its stub is there to ask for one."""
        if not any(trial_key in host.leases for host in self._hosts.values()):
            self._fleet.waiting[trial_key] = self._fleet.base_of(spec)
            self._fleet.turn()

    async def acquire(
        self, trial_key: str, wait_seconds: float, spec: TrialSpec | None = None
    ) -> Lease | Refused | None:
        """Gives the trial a free slot on its base; None if no slot becomes free in time. The trial must hold no slot.

        Args:
            spec: names the base; None for the first base.
        """
        self._revive()
        base = self._fleet.base_of(spec)
        if base in self._fleet.refused:
            return Refused(message=f"no host can hold the base {base}: {self._fleet.refused[base]}", kind="infeasible")
        if self._deaths.is_guilty(trial_key):
            deaths = self._deaths.in_a_row(trial_key)
            return Refused(message=f"its host died {deaths} times in a row, the last time with no other trial on it")
        self._fleet.waiting[trial_key] = base
        if self._deaths.is_suspect(trial_key):
            self._suspects_waiting.add(trial_key)
        else:
            self._suspects_waiting.discard(trial_key)
        self._fleet.turn()
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._place(trial_key)), wait_seconds)
            host_id = self._place(trial_key)
            if host_id is None:
                return None
            self._suspects_waiting.discard(trial_key)
            self._fleet.waiting.pop(trial_key, None)
            lease = self._hosts[host_id].leases[trial_key] = f"{trial_key}-{uuid.uuid4().hex[:8]}"
            return Lease(lease, host_id)

    async def vacate(self, trial_key: str) -> None:
        """Frees the trial's slot, if it has one, or its place among those that wait."""
        self._suspects_waiting.discard(trial_key)
        self._fleet.waiting.pop(trial_key, None)
        for host_id, host in list(self._hosts.items()):
            lease = host.leases.get(trial_key)
            if lease is None:
                continue
            with suppress(*PROCESS_LOST):
                await self.call(host_id, lambda actor: actor.close.remote(lease))  # noqa: B023 - awaited here
            host.leases.pop(trial_key, None)
            self._fleet.waiting.pop(trial_key, None)  # A host that died meanwhile has its trials wait for another.
            self._fleet.end_if_empty(host_id)
            self._fleet.turn()
            await self._tell()

    def reached(self, trial_key: str) -> None:
        """Forgets the deaths of the trial's hosts: a trial that came to a report point does not kill hosts."""
        self._deaths.forget(trial_key)
        for host in self._hosts.values():
            if trial_key in host.leases:
                self._deaths.forget(host.facts.place)

    async def lost(self, host_id: str) -> None:
        """Removes a host that died, with its leases, and has another made. A second call does nothing."""
        if self._fleet.lose(host_id):
            await self._tell()

    async def _not_reached(self, host_id: str) -> None:
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

    async def call(self, host_id: str, ask: Callable[[Any], Awaitable[T]]) -> T:
        """Returns a host's answer to a call that can be repeated.

        Raises:
            RayActorError, NodeDiedError, OutOfMemoryError: the host is lost.
        """
        while (host := self._hosts.get(host_id)) is not None:
            try:
                return await ask(host.actor)
            except ActorUnavailableError:
                await self._not_reached(host_id)
            except PROCESS_LOST:
                await self.lost(host_id)
                raise
        raise ActorDiedError

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

    def _place(self, trial_key: str) -> str | None:
        """Chooses the host for a trial that waits: an empty one for a suspect, else the one with the most free slots.

        While a suspect waits, the emptiest host is kept for it. A host at a place where none of the trial's hosts died
        is better, and a must if all of them died at one place.
        """
        suspect, base = self._deaths.is_suspect(trial_key), self._fleet.waiting.get(trial_key)
        if self._deaths.is_guilty(trial_key) or base in self._fleet.refused:
            return None
        hosts = {key: host for key, host in self._hosts.items() if host.base == base}
        closed = {key for key, host in hosts.items() if any(map(self._deaths.is_suspect, host.leases))}
        if base in map(self._fleet.waiting.get, self._suspects_waiting):
            others = [key for key, host in hosts.items() if key not in closed and not host.is_leaving]
            closed |= set(sorted(others, key=lambda each: len(hosts[each].leases))[:1])
        must_leave = self._deaths.must_leave(trial_key)
        best, most, shares = None, (False, 0), self._fleet.shares
        for host_id, host in hosts.items():
            free = host.room(shares.get(host))
            taken = bool(host.leases) if suspect else host_id in closed
            is_other = not self._deaths.was_at(trial_key, host.facts.place)
            if free and not taken and (is_other or not must_leave) and (is_other, free) > most:
                best, most = host_id, (is_other, free)
        return best

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _look() -> tuple[Node, ...]:
    """Looks at the nodes in another thread: Ray may need seconds to answer."""
    return await asyncio.get_running_loop().run_in_executor(None, look)


def create(base: TrialSpec, limits: SlotLimits, options: HostOptions, run: Callable[..., Run]) -> Any:
    """Starts the broker on the driver's own node. Others find it under NAME in the driver's namespace.

    Settles once whether hosts hold GPUs: a broker that Ray restarts may find all GPU nodes gone. `run`: see `Broker`.
    """
    if options.gpus_per_host == "auto":
        options = options.model_copy(update={"gpus_per_host": 1 if gpus(look()) else 0})
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    settings = {"name": NAME, "num_cpus": 0, "max_concurrency": 20_000, "scheduling_strategy": here, "max_restarts": -1}
    return ray.remote(Broker).options(**settings).remote(base, limits, options, run)
