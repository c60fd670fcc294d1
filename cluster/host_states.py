"""The state of a sweep's hosts: ready and starting hosts, their time, their shares, and their compute types."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ray.exceptions import RayError

from cluster import timeouts
from cluster.hosts import HostFacts, SlotLimits
from cluster.pace import Pulse, Silent
from trainables.contract import StepRecord
from trainables.engine_paths import EnginePath
from trainables.specs import TrialSpec


@dataclass(eq=False)
class HostState:
    """A host that is ready."""

    actor: Any
    facts: HostFacts
    since: float = 0.0
    """Time at which the host was ready, in seconds of the fleet's clock."""
    base: str = ""
    """Name of its base."""
    leases: dict[str, str] = field(default_factory=dict)
    """Trial key -> id of its lease. An id is never used again: an `open` may arrive after its `close`."""
    is_leaving: bool = False
    """Whether the host takes no further trials, and ends once its trials have moved."""
    evaluations: int = 0
    """Evaluations of the base or of finalists that somebody waits for."""
    pulse: Pulse = field(default_factory=Pulse)

    def room(self, share: int | None) -> int:
        """Returns the slots that are free for further trials; `share` is the host's in `shares`, None without one."""
        slots = self.facts.slots if share is None else min(self.facts.slots, share)
        return 0 if self.is_leaving else max(0, slots - len(self.leases))

    async def latest(self, clock: Callable[[], float]) -> dict[str, StepRecord]:
        """Returns trial key -> last step of the trial here; empty if the host does not answer in time."""
        asked = clock()
        try:
            steps, doing = await asyncio.wait_for(self.actor.latest.remote(), timeouts.HOST_ANSWER_SECONDS)
        except TimeoutError:
            self.pulse.missed(asked)
            return {}
        except RayError:  # a lost host is found elsewhere
            return {}
        self.pulse.heard(doing)
        return {key: steps[lease] for key, lease in self.leases.items() if lease in steps}

    def silent(self, now: float) -> Silent | None:
        """Returns the host's work if it takes far too long; `now` is a time of the clock given to `latest`."""
        doing = self.pulse.overdue(now)
        if doing is None:
            return None
        return Silent(
            pid=self.facts.pid,
            node=self.facts.node,
            trials=tuple(self.leases),
            what=doing.what,
            usual=doing.usual,
            since=time.time() - doing.seconds,
        )

    async def move_out(self) -> None:
        """Has the host's trials save themselves and move. Trials of a lost host go on from their last snapshots."""
        with suppress(RayError):
            await self.actor.move_out.remote()


@dataclass(eq=False)
class Starting:
    """A host that is being made."""

    actor: Any
    since: float
    base: str = ""
    """Name of its base."""
    node_id: str | None = None
    """None until Ray has placed it."""
    is_given_up: bool = False
    deaths_before: int = 0
    """Deaths at the start before this host was made. Hosts that begin together are one attempt: they may have one cause
    of death."""

    def beside(self, hosts: Mapping[str, HostState]) -> tuple[HostFacts, ...]:
        """Returns the ready hosts on the same node that stay."""
        staying = (each.facts for each in hosts.values() if not each.is_leaving)
        return tuple(facts for facts in staying if facts.node_id == self.node_id)


@dataclass
class BaseState:
    """What a fleet knows of a base that trials name."""

    spec: TrialSpec
    types: ComputeTypes
    """The compute types of its hosts."""
    path: EnginePath | None = None
    """How its hosts compute passes, as its first host has settled; None before."""
    slots: int | None = None
    """Slots of the latest host that held it; None before the first."""
    refused: str = ""
    """Why no host can hold it; empty if one may."""


class HostSeconds:
    """Adds up the seconds that hosts hold their places."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held, self._since, self._seconds = 0, clock(), 0.0

    def note(self, held: int) -> float:
        """Notes how many hosts hold a place from now on; returns the seconds of all hosts until now."""
        now = self._clock()
        self._seconds += self._held * (now - self._since)
        self._held, self._since = held, now
        return self._seconds


def begin(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    """Begins work that nobody waits for. `tasks` holds the task until it is over: asyncio itself would lose it."""
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


class FleetSize(NamedTuple):
    """How many hosts and slots there are now."""

    hosts: int
    slots: int


def standing(hosts: Iterable[HostState], shares: Mapping[HostState, int]) -> FleetSize:
    """Counts the hosts that stay, and their slots under these shares, with the slots of trials beyond a share."""
    staying = [host for host in hosts if not host.is_leaving]
    return FleetSize(len(staying), sum(len(host.leases) + host.room(shares.get(host)) for host in staying))


def shares(hosts: Iterable[HostState], limits: SlotLimits) -> Mapping[HostState, int]:
    """Returns how many trials each host may have. A host that is left out may have as many as it has slots.

    The shares add up to the bound of all hosts: two hosts under at most 9 have 4 and 5, but each host has 1 at least.
    Hosts without room for an equal share leave the rest to the others. A host that was made before others joined may
    have more trials than its share; it keeps them until they end or park.
    """
    if limits.slots != "auto":
        return {}
    # Hosts with the most slots and trials come last: they get the remainder.
    left, staying = limits.at_most, [host for host in hosts if not host.is_leaving]
    found = {}
    for number, host in enumerate(sorted(staying, key=lambda host: (host.facts.slots, len(host.leases)))):
        found[host] = max(1, min(host.facts.slots, left // (len(staying) - number)))
        left -= found[host]
    return found


def hosts_and_slots(hosts: int, slots: int) -> str:
    """Writes the numbers in words."""
    return f"{hosts} {'host' if hosts == 1 else 'hosts'}, {slots} {'slot' if slots == 1 else 'slots'}"


class ComputeTypes:
    """The types that the hosts of a sweep compute in. Losses of two types do not compare, on any device."""

    def __init__(self, before: str) -> None:
        """Starts without hosts; for `before` see `HostOptions.hardware_before`."""
        self._before = before
        self._seen: dict[str, str] = {}
        """Type -> its first host, in words."""

    def add(self, facts: HostFacts) -> list[str]:
        """Adds a ready host; returns warnings about its type, each once."""
        own, before, others = _type(facts.hardware), _type(self._before), list(self._seen.values())
        if not own or own in self._seen:
            return []
        self._seen[own] = f"{facts.hardware} on {facts.node}"
        if before and before not in self._seen:
            return [
                f"warning: this sweep's losses were computed in {self._before} before it was resumed, and are computed "
                f"in {self._seen[own]} now: the two do not compare: stop it and resume it where hosts compute in "
                f"{before}, or launch it anew with quantization.compute_dtype=float32"
            ]
        if not others:
            return []
        return [
            f"warning: hosts compute in different types ({others[0]}, {self._seen[own]}), so that losses of their "
            "trials do not compare: launch with quantization.compute_dtype=float32, or leave the nodes of one type out"
        ]


def _type(hardware: str) -> str:
    return hardware.rpartition(" ")[2]
