"""What is known of a sweep's hosts: those that are ready, those that start, and those that died while they started."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ray.exceptions import ActorDiedError, RayError, RayTaskError, RuntimeEnvSetupError

from cluster import timing
from cluster.hosts import HostFacts, SlotLimits
from cluster.leases import NotReady
from cluster.pace import Pulse, Silent
from trainables.contract import StepRecord

MOST_START_DEATHS = 3
"""After so many attempts in a row whose hosts died while they started, on nodes that stay, the start fails."""


@dataclass
class Lease:
    """A trial's right to a slot."""

    lease_id: str
    renewed: float


@dataclass(eq=False)
class Host:
    """A host that is ready."""

    actor: Any
    facts: HostFacts
    since: float = 0.0
    """When it was ready, in the fleet's seconds."""
    leases: dict[str, Lease] = field(default_factory=dict)
    """Trial key -> its lease."""
    is_leaving: bool = False
    """It takes no further trials, and ends when those that it has have moved."""
    pulse: Pulse = field(default_factory=Pulse)

    def room(self, share: int | None) -> int:
        """Slots that are free for further trials; for `share` see `shares`, None is all of them."""
        slots = self.facts.slots if share is None else min(self.facts.slots, share)
        return 0 if self.is_leaving else max(0, slots - len(self.leases))

    async def latest(self, clock: Callable[[], float]) -> dict[str, StepRecord]:
        """Trial key -> the last step that it took here; none where it does not answer in time. Feels its pulse."""
        asked = clock()
        try:
            steps, doing = await asyncio.wait_for(self.actor.latest.remote(), timing.HOST_ANSWER_SECONDS)
        except TimeoutError:
            self.pulse.missed(asked)
            return {}
        except RayError:  # That it is gone is found elsewhere.
            return {}
        self.pulse.heard(doing)
        return {key: steps[lease.lease_id] for key, lease in self.leases.items() if lease.lease_id in steps}

    def silent(self, now: float) -> Silent | None:
        """What it is at if that takes far too long; `now` is of the clock of `latest`."""
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
        """Has its trials save themselves and move; nothing where it is gone: they go on from their last snapshots."""
        with suppress(RayError):
            await self.actor.move_out.remote()


@dataclass(eq=False)
class Starting:
    """A host that is being made."""

    actor: Any
    since: float
    node_id: str | None = None
    """None until Ray has placed it."""
    is_given_up: bool = False
    attempt: int = 0
    """How many attempts of the start had failed when it was made; see `StartDeaths`."""

    def beside(self, hosts: Mapping[str, Host]) -> tuple[HostFacts, ...]:
        """The hosts that are ready on its node, and stay."""
        staying = (each.facts for each in hosts.values() if not each.is_leaving)
        return tuple(facts for facts in staying if facts.node_id == self.node_id)


class HeldTime:
    """Adds up the seconds that hosts hold their places."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """None so far; `clock` tells seconds."""
        self._clock = clock
        self._held, self._since, self._seconds = 0, clock(), 0.0

    def note(self, held: int) -> float:
        """From now on so many hosts hold their places; returns the seconds of all hosts until now."""
        now = self._clock()
        self._seconds += self._held * (now - self._since)
        self._held, self._since = held, now
        return self._seconds


class FleetSize(NamedTuple):
    """How many hosts and slots there are now."""

    hosts: int
    slots: int


def standing(hosts: Iterable[Host], shares: Mapping[Host, int]) -> FleetSize:
    """The hosts that stay and the slots that they have with such shares, those of trials beyond them included."""
    staying = [host for host in hosts if not host.is_leaving]
    return FleetSize(len(staying), sum(len(host.leases) + host.room(shares.get(host)) for host in staying))


def shares(hosts: Iterable[Host], limits: SlotLimits) -> Mapping[Host, int]:
    """How many trials each host has before it takes no more; of one that is left out, as many as it has slots.

    They add up to the bound of all: two hosts under at most 9 have 4 and 5, but each has 1 at least. Hosts that have no
    room for an equal share leave the rest of theirs to the others. A host that was made before others joined has slots
    for more trials than are its share now. It keeps those that it has until they end or park.
    """
    if limits.slots != "auto":
        return {}
    # Those that train the most come last: they keep what does not divide.
    left, staying = limits.at_most, [host for host in hosts if not host.is_leaving]
    found = {}
    for number, host in enumerate(sorted(staying, key=lambda host: (host.facts.slots, len(host.leases)))):
        found[host] = max(1, min(host.facts.slots, left // (len(staying) - number)))
        left -= found[host]
    return found


class StartDeaths:
    """The attempts in a row whose hosts died while they started, before the first one was ready.

    Hosts that were made before the first of them died are of one attempt: one cause may have ended them all.
    """

    def __init__(self) -> None:
        """None so far."""
        self.attempts = 0
        """All that have failed so far."""
        self._nodes: list[list[str]] = []
        """Of each attempt in a row, the nodes where its hosts died: `""` when it is not known where."""
        self._last = ""

    def add(self, host: Starting, error: RayError) -> None:
        """One more host."""
        self._last = message(error)
        # Ray tells of a node's end in these words only (libray, 2.60), or as a preemption.
        if not getattr(error, "preempted", False) and "its node has died" not in str(error):
            if host.attempt == self.attempts or not self._nodes:
                self.attempts += 1
                self._nodes.append([])
            self._nodes[-1].append(host.node_id or "")

    def clear(self) -> None:
        """A host is ready: hosts can start."""
        self._nodes.clear()

    def problem(self, is_gone: Callable[[str], bool]) -> NotReady | None:
        """Why no further one is tried, if so; those whose node `is_gone` went with it and do not count."""
        number = sum(not all(map(is_gone, died_on)) for died_on in self._nodes)
        if number < MOST_START_DEATHS:
            return None
        self.clear()
        words = f"tried {number} times, and each time {self._last.rstrip('.')}"
        return NotReady(
            message=f"{words}; Ray has not found their nodes lost: is there enough memory for the base (qsweep plan "
            "says how much it takes), and does the trainable end its process? qsweep resume tries again",
            is_mistake=False,
        )


def is_mistake(error: RayError) -> bool:
    """Whether a host cannot start for a reason that stays: an exception, or packages that cannot be installed."""
    is_in_init = isinstance(error, ActorDiedError) and error.actor_init_failed
    return is_in_init or isinstance(error, (RayTaskError, RuntimeEnvSetupError))


def said(hosts: int, slots: int) -> str:
    """The numbers in words."""
    return f"{hosts} {'host' if hosts == 1 else 'hosts'}, {slots} {'slot' if slots == 1 else 'slots'}"


def in_a_line(error: Exception) -> str:
    """The type of an error, and the first line of its words."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def message(error: RayError) -> str:
    """Why a host could not be made, for the user."""
    cause = getattr(error, "cause", None)
    if cause is not None:
        return str(cause)
    lines = [line for line in str(error).splitlines() if line.strip()]
    if isinstance(error, RuntimeEnvSetupError):
        return f"cluster.runtime_env: it cannot be made ready for a host: {lines[-1].strip()}"
    # Ray says of a process first that it died, then, indented, which one it was, and then why (2.60: ActorDiedError).
    why = [line for line in lines if not line.startswith("\t") and line != ActorDiedError.BASE_ERROR_MSG]
    words, _, _ = (why or lines)[0].partition(" Some common causes")  # Several lines of guesses follow.
    return f"a host died while it started: {words}"
