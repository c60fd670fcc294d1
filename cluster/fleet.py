"""Makes, gives up and replaces the hosts of a sweep as nodes come and go.

Ray places each host on a node that has room for it. A host for which there is no room waits with Ray, so that an
autoscaler sees it.
"""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import ray
from ray.exceptions import RayError

from cluster import host_states, nodes, placement, timeouts
from cluster.broker_answers import NotReady
from cluster.deaths import GUILTY_AFTER, Deaths, failure_message, is_mistake
from cluster.host_states import (
    BaseState,
    ComputeTypes,
    FleetSize,
    HostSeconds,
    HostState,
    Starting,
    begin,
    hosts_and_slots,
)
from cluster.hosts import HostActor, HostFacts, HostOptions, HostPlace, SlotLimits
from cluster.placement import Held
from trainables.contract import Prepared, RowShape
from trainables.engine_paths import EnginePath, Settled
from trainables.specs import TrialSpec, short_names

Got = TypeVar("Got")
Look = Callable[[], Awaitable[Sequence[nodes.Node]]]
"""Returns the present nodes."""
START = "start"
"""The key of the start in `Fleet.deaths`."""


class Fleet:
    """Keeps as many hosts as the sweep wants and the cluster has room for. One event loop runs all of it."""

    def __init__(
        self,
        base: TrialSpec,
        limits: SlotLimits,
        options: HostOptions,
        clock: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        """Makes no host yet. `limits` bounds all hosts together; `tell` gets a line when a host starts or ends."""
        self._limits, self._options = limits, options
        self._clock, self._tell = clock, tell
        self._plain = base
        self.bases = {base.base_name: BaseState(base, ComputeTypes(options.hardware_before))}
        """Name -> base, for all bases that trials may name, the first one first."""
        self.waiting: dict[str, str] = {}
        """Trial that waits for a slot, or evaluation that waits for a host -> the name of its base."""
        for each in options.bases:
            self.base_of(each)
        self.asked = options.hosts
        self.hosts: dict[str, HostState] = {}
        """Host id -> host that is ready or leaving."""
        self._starting: list[Starting] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._first: Starting | None = None
        """The first host, which is asked before the others are made."""
        self._gpus_per_host = 0
        self._nodes: tuple[nodes.Node, ...] = ()
        self.wanted = 0
        self._data: Any = None
        self._rows: RowShape | None = None
        self._problem: NotReady | None = None
        """Why the latest host that failed could not be made."""
        self._told_problem = ""
        """The reason that was told last; it is not told twice in a row."""
        self._failures = 0
        """Hosts in a row that could not be made."""
        self.deaths = Deaths(self.is_gone, self._places)
        """Deaths of hosts at the start, under a trial, in an evaluation, and at a place before a report there."""
        self._host_seconds = HostSeconds(clock)
        self._has_started = False
        self._told_refusals: set[str] = set()
        """Lines that were told about hosts' self-tests."""
        self._last_loss = -math.inf
        self._not_before = clock()
        """No host is made before this time."""

    @property
    def is_prepared(self) -> bool:
        """Tells whether the data is there."""
        return self._data is not None

    @property
    def standing(self) -> FleetSize:
        """Returns the number of hosts that stay, and of their slots."""
        return host_states.standing(self.hosts.values(), self.shares)

    @property
    def shares(self) -> Mapping[HostState, int]:
        """See `host_states.shares`."""
        return host_states.shares(self.hosts.values(), self._limits)

    def base_of(self, spec: TrialSpec | None) -> str:
        """Returns the name of a trial's base; None is on the first base."""
        name = (spec or self._plain).base_name
        if spec is not None and name not in self.bases:
            self.bases[name] = BaseState(self._plain.on_base_of(spec), ComputeTypes(""))
        return name

    @property
    def refused(self) -> Mapping[str, str]:
        """Returns base -> why no host can hold it."""
        return {name: base.refused for name, base in self.bases.items() if base.refused}

    @property
    def paths(self) -> dict[str, EnginePath]:
        """Returns base -> how its hosts compute passes, for the bases of which a host has settled that."""
        return {name: base.path for name, base in self.bases.items() if base.path is not None}

    @property
    def slots_by_base(self) -> dict[str, int]:
        """Returns base -> slots of the hosts that stay, and the expected slots of those that are being made."""
        slots, shares = self._slots_to_come, self.shares
        for host in self.hosts.values():
            slots[host.base] += 0 if host.is_leaving else len(host.leases) + host.room(shares.get(host))
        return dict(slots)

    @property
    def _slots_to_come(self) -> Counter[str]:
        usual = max((base.slots or 1 for base in self.bases.values()), default=1)
        slots: Counter[str] = Counter()
        for each in self._starting:
            # There may be no room any more for a host that is not placed: no trial may wait for such a host for ever.
            is_coming = not each.is_given_up and (each.node_id is not None or each.since > self._recent)
            slots[each.base] += (self.bases[each.base].slots or usual) if is_coming else 0
        return slots

    @property
    def _recent(self) -> float:
        """Returns the time since which a host may still be placed."""
        return self._clock() - timeouts.HOST_PLACED_SECONDS

    def turn(self) -> None:
        """Has idle hosts change their base where trials wait for another one."""
        if len(self.bases) == 1:
            return
        shares = self.shares
        held = {
            host_id: Held(host.base, host.room(shares.get(host)), not host.leases and not host.evaluations)
            for host_id, host in self.hosts.items()
            if not host.is_leaving
        }
        waiting = Counter(base for base in self.waiting.values() if not self.bases[base].refused)
        for host_id, base in placement.changes(held, self._slots_to_come, waiting).items():
            host = self.hosts.pop(host_id)
            ray.kill(host.actor)
            names, where = short_names(self.bases), f"process {host.facts.pid} on {host.facts.node}"
            self._tell(f"host changes its base ({where}): no trial on {names[host.base]} is due, but on {names[base]}")
            begin(self._bring(self._made(base)), self._tasks)
        self.held_seconds()

    @property
    def held(self) -> int:
        """Returns how many hosts hold a place: those that are ready, leave, or are placed and load."""
        return len(self.hosts) + sum(each.node_id is not None and not each.is_given_up for each in self._starting)

    def held_seconds(self) -> float:
        """Returns the seconds that all hosts have held their places. Call it also when the number of hosts changes."""
        return self._host_seconds.note(self.held)

    def lay_out(self, seen: Sequence[nodes.Node]) -> NotReady | None:
        """Decides how many hosts are wanted and how many GPUs each holds; returns why that is impossible, if so."""
        self._nodes = tuple(seen)
        there, asked = nodes.gpus(seen), self._options.gpus_per_host
        self._gpus_per_host = (1 if there else 0) if asked == "auto" else asked
        number = 1 if self.asked == "auto" else self.asked
        if self._gpus_per_host and not self._options.may_grow:
            problem = nodes.problem(number, self._gpus_per_host, seen)
            if problem is not None:
                return NotReady(message=problem)
        self.wanted = self._count(self.asked)
        return None

    def outlook(self) -> str | None:
        """Returns, in words, what the start waits for; None if all wanted hosts have room. Call `lay_out` first."""
        return nodes.outlook(self.wanted, self._gpus_per_host, self._nodes) if self._gpus_per_host else None

    async def ask_first(self, look: Look, ask: Callable[[Any], Awaitable[Got]]) -> Got | NotReady:
        """Asks the first host, before any host loads. If it dies, asks another, until too many have died in a row."""
        while True:
            problem = self.lay_out(await look())
            if problem is not None:
                return problem
            first = self._first = self._first or self._made()
            try:
                first.node_id = await first.actor.node_id.remote()
                self.held_seconds()
                return await ask(first.actor)
            except RayError as error:
                if is_mistake(error):
                    return NotReady(message=failure_message(error))
                self.forget_first()
                self._failed(error, first)
            problem = await self._after_deaths(look)
            if problem is not None:
                return problem

    async def _after_deaths(self, look: Look) -> NotReady | None:
        """Waits until another host may be made; returns why none is to be made, if so."""
        await asyncio.sleep(max(0.0, self._not_before - self._clock()))
        self._nodes = tuple(await look())
        if not self.deaths.is_guilty(START):
            return None
        words = f"tried {self.deaths.in_a_row(START)} times, and each time {self._told_problem.rstrip('.')}"
        self.deaths.forget(START)
        return NotReady(
            message=f"{words}; Ray has not found their nodes lost: is there enough memory for the base (qsweep plan "
            "says how much it takes), and does the trainable end its process? qsweep resume tries again",
            is_mistake=False,
        )

    def forget_first(self) -> None:
        """Ends the first host, which has failed. The next attempt makes another."""
        if self._first is not None:
            ray.kill(self._first.actor)
            self._starting.remove(self._first)
            self._first = None
            self.held_seconds()

    def prepared(self, prepared: Prepared) -> None:
        """Keeps the data for all hosts. Hosts that are made from now on compute passes as the first one does."""
        self._data, self._rows = ray.put(prepared.payload), prepared.summary.shape
        if prepared.settled is not None:
            self._settle(self.bases[self._plain.base_name], prepared.settled)

    def _settle(self, base: BaseState, settled: Settled) -> None:
        """Has later hosts of a base compute passes as its first one does."""
        if base.path is None:
            base.path, base.spec = settled.path, settled.path.given_to(base.spec)

    async def start(self, look: Look) -> NotReady | None:
        """Begins to make all hosts; returns when those that the cluster has room for now are ready."""
        placed = await self.ask_first(look, lambda host: host.node_id.remote())
        if isinstance(placed, NotReady):
            return placed
        first, self._first, self._problem = self._first, None, None
        assert first is not None, "it has just answered"
        self._nodes = tuple(await look())
        self.wanted = self._count(self.asked)
        startable = min(self.wanted, self._count("auto")) if self._gpus_per_host else self.wanted
        # The broker may have been asked for hosts meanwhile, and have made some of them.
        missing = self.wanted - self.standing.hosts - sum(not each.is_given_up for each in self._starting)
        for starting in (first, *(self._made() for _ in range(missing))):
            begin(self._bring(starting), self._tasks)
        since: float | None = None
        while len(self.hosts) < startable and (self._problem is None or any(each.node_id for each in self._starting)):
            if not self._tasks:  # What was begun has died.
                if self.hosts:
                    break
                self._problem = await self._after_deaths(look)
                if self._problem is None:
                    self.follow(self._nodes)
                continue
            since = since or (self._clock() if self.hosts else None)
            left = None if since is None else since + timeouts.HOSTS_SETTLE_SECONDS - self._clock()
            if left is not None and left <= 0:
                break
            await asyncio.wait(self._tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        self._has_started = True
        return None if self.hosts else self._problem

    def follow(self, seen: Sequence[nodes.Node]) -> None:
        """Fits the hosts to the present nodes and to the number that is asked for."""
        self._nodes = tuple(seen)
        alive = {node.node_id for node in seen}
        for host_id, host in list(self.hosts.items()):
            if host.facts.node_id and host.facts.node_id not in alive:
                self.lose(host_id)
            elif host.is_leaving:
                begin(host.move_out(), self._tasks)  # Again: the first call may have been lost.
            elif self.is_gone(host.facts.node_id):
                self._leave(host, "its node is leaving the cluster")
        self.wanted = self._count(self.asked)
        self._fit()
        for host_id in list(self.hosts):
            self.end_if_empty(host_id)
        self.held_seconds()

    def end_if_empty(self, host_id: str) -> None:
        """Ends a host that is leaving and has no trials left."""
        host = self.hosts.get(host_id)
        if host is not None and host.is_leaving and not host.leases:
            del self.hosts[host_id]
            ray.kill(host.actor)

    def lose(self, host_id: str) -> bool:
        """Removes a host whose process is gone, and has another made; False if the host was removed before."""
        gone = self.hosts.pop(host_id, None)
        if gone is None:
            return False
        ray.kill(gone.actor)
        self.waiting |= dict.fromkeys(gone.leases, gone.base)  # they go on, so the next host has the same base
        for trial in gone.leases:
            self.deaths.add(trial, gone.facts.place, was_alone=len(gone.leases) == 1)
        trials = f"{len(gone.leases)} {'trial' if len(gone.leases) == 1 else 'trials'}"
        left = "another is made" if self.hosts else "no host is left: trials wait until one is there"
        self._tell(f"host lost (process {gone.facts.pid} on {gone.facts.node}, {trials}); {left}")
        now = self._clock()
        if gone.since >= self._last_loss:  # else it was lost together with the one before
            before = self.deaths.in_a_row(gone.facts.place)
            pause = 0.0 if before == 0 else min(2.0 ** (before - 1), timeouts.HOST_LONGEST_PAUSE_SECONDS)
            self.deaths.add(gone.facts.place, gone.facts.place)
            self._not_before = max(self._not_before, now + pause)
        self._last_loss = now
        self._fit()
        return True

    def _places(self, trial: Hashable) -> set[HostPlace]:
        """Returns the places of the hosts that stay and have a trial's base; for what is no trial, of all that stay.

        Hosts that load are among them: their GPUs are not known yet.
        """
        held = (host.base for host in self.hosts.values() if trial in host.leases)
        base = self.waiting.get(str(trial)) or next(held, None)
        ready = {host.facts.place for host in self.hosts.values() if not host.is_leaving and base in (None, host.base)}
        loading = [each for each in self._starting if not each.is_given_up and base in (None, each.base)]
        return ready | {HostPlace(each.node_id, ("",)) for each in loading if each.node_id}

    def is_gone(self, node_id: str) -> bool:
        """Tells whether a node is gone or leaving; False for an empty id."""
        staying = {node.node_id for node in self._nodes if not node.is_leaving}
        return bool(node_id) and node_id not in staying

    def _count(self, asked: int | Literal["auto"]) -> int:
        held = Counter(host.facts.node_id for host in self.hosts.values() if not host.is_leaving)
        held.update(each.node_id for each in self._starting if each.node_id is not None)
        unplaced = sum(each.node_id is None and each.since > self._recent for each in self._starting)
        return nodes.wanted(asked, self._gpus_per_host, self._nodes, held, unplaced)

    def _fit(self) -> None:
        """Makes missing hosts and gives up surplus ones, those that hold the least first."""
        if not self.is_prepared:
            return
        staying = [host for host in self.hosts.values() if not host.is_leaving]
        starting = [each for each in self._starting if not each.is_given_up]
        excess = len(staying) + len(starting) - self.wanted
        for each in sorted(starting, key=lambda each: each.node_id is not None)[: max(0, excess)]:
            each.is_given_up = True
            ray.kill(each.actor)
            excess -= 1
        for host in sorted(staying, key=lambda host: len(host.leases))[: max(0, excess)]:
            self._leave(host, f"{self.wanted} {'is' if self.wanted == 1 else 'are'} wanted")
        if self._clock() >= self._not_before:
            for _ in range(-excess):
                begin(self._bring(self._made()), self._tasks)

    def _leave(self, host: HostState, reason: str) -> None:
        if host.is_leaving:
            return
        host.is_leaving = True
        trials = f"{len(host.leases)} {'trial moves' if len(host.leases) == 1 else 'trials move'}"
        self._tell(f"host given up (process {host.facts.pid} on {host.facts.node}, {trials}): {reason}")
        begin(host.move_out(), self._tasks)

    def _made(self, base: str = "") -> Starting:
        """Makes a host with a base; without one, with the base that lacks a host most."""
        made = Counter([*(host.base for host in self.hosts.values()), *(each.base for each in self._starting)])
        left = [name for name in self.bases if name not in self.refused]
        base = base or placement.of_new(made, Counter(self.waiting.values()), left)
        spec = self.bases[base].spec
        machines = [node for node in self._nodes if not node.is_leaving and node.gpus >= self._gpus_per_host]
        update = {
            "hosts_per_machine": max(1, -(-self.wanted // max(1, len(machines)))),
            "at_most": self._limits.of_each(self.wanted),
            "largest": tuple(
                each if each.base_name == base else each.on_base_of(spec) for each in self._limits.largest
            ),
        }
        options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": "SPREAD", "num_gpus": self._gpus_per_host}
        runtime: dict[str, Any] = {"env_vars": self._options.env_vars, "pip": list(self._options.pip)}
        if given := {name: value for name, value in runtime.items() if value}:
            options["runtime_env"] = given
        actor = HostActor.options(**options).remote(spec.model_dump_json(), self._limits.model_copy(update=update))
        self._starting.append(Starting(actor, self._clock(), base, deaths_before=self.deaths.in_a_row(START)))
        return self._starting[-1]

    async def _bring(self, starting: Starting) -> None:
        """Adds a host to `hosts` once it is placed and has loaded, which may take minutes."""
        try:
            starting.node_id = await starting.actor.node_id.remote()
            self.held_seconds()
            facts: HostFacts = await starting.actor.start.remote(self._data, self._rows, starting.beside(self.hosts))
        except RayError as error:
            if not starting.is_given_up:
                ray.kill(starting.actor)  # It may live on, and hold its GPU.
                self._failed(error, starting)
            return
        finally:
            self._starting.remove(starting)
            self.held_seconds()
        if starting.is_given_up:
            return
        # An id is never used twice, also after Ray restarted the broker: trials name hosts that they lost.
        self._failures, self._told_problem = 0, ""
        self.deaths.forget(START)
        base = self.bases[starting.base]
        self.deaths.forget(starting.base)
        base.slots = facts.slots
        if facts.settled is not None:
            self._settle(base, facts.settled)
        for line in (*base.types.add(facts), *self._refusals(facts)):
            self._tell(line)
        self.hosts[f"host-{uuid.uuid4().hex[:8]}"] = HostState(starting.actor, facts, self._clock(), starting.base)
        self.held_seconds()
        if self._has_started:
            self._tell(f"host started (process {facts.pid} on {facts.node}): {hosts_and_slots(*self.standing)}")

    def _refuses(self, host: Starting, error: RayError, words: str) -> bool:
        """Gives the host's base up, if there are others, once it is clear that no host can hold it; tells so once.

        A base that a host has held stays: what is wrong now may end.
        """
        base = self.bases[host.base]
        self.deaths.add(host.base, HostPlace(host.node_id or "", ()), error=error)
        is_hopeless = is_mistake(error) or self.deaths.in_a_row(host.base) >= GUILTY_AFTER
        if (
            not is_hopeless
            or base.slots is not None
            or all(each.refused for each in self.bases.values() if each is not base)
        ):
            return False
        if not base.refused:
            base.refused = words
            name = short_names(self.bases)[base.spec.base_name]
            self._tell(f"no host can hold the base {name}, and its points are infeasible: {words}")
        self._not_before = self._clock()
        return True

    def _refusals(self, facts: HostFacts) -> list[str]:
        """Returns lines about what a host's self-test refuses, each once per node."""
        lines = [] if facts.settled is None else [f"{facts.node}: {line}" for line in facts.settled.refused]
        new = [line for line in lines if line not in self._told_refusals]
        self._told_refusals.update(new)
        return new

    def _failed(self, error: RayError, host: Starting) -> None:
        self._failures += 1
        # The first process that dies may have been placed on a node that is lost, before Ray knew that.
        is_node_suspect = not is_mistake(error) and self._failures == 1
        self._not_before = self._clock() + (
            timeouts.HOST_SOON_SECONDS if is_node_suspect else timeouts.HOST_RETRY_SECONDS
        )
        words = failure_message(error)
        if self._refuses(host, error, words):
            return
        if is_mistake(error):
            self._problem = NotReady(message=words)
        elif not self._has_started:
            self._told_problem = words
            if host.deaths_before >= self.deaths.in_a_row(START):
                self.deaths.add(START, HostPlace(host.node_id or "", ()), error=error)
            self._tell(f"{words}; another is made")
        if self._has_started and not is_node_suspect and words != self._told_problem:
            self._told_problem = words
            self._tell(f"a host could not be made: {words}; trying again every {timeouts.HOST_RETRY_SECONDS:.0f} s")
