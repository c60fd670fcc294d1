"""What the broker answers: its hosts are ready or not, and a trial gets a lease on a slot or is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster.hosts import HostFacts
from trainables.contract import Summary
from trainables.inputs.legible import Words
from trainables.specs import Spec


class Ready(Spec):
    """Says that all hosts run."""

    data: Summary
    hosts: tuple[HostFacts, ...]
    held: int = 0
    """Hosts that hold their place, also those that still load."""
    held_seconds: float = 0.0
    """For how long hosts have held their places so far, added up; no host holds one while it waits for a free GPU."""

    @property
    def slots(self) -> int:
        """The number of slots of all hosts."""
        return sum(host.slots for host in self.hosts)


class NotReady(Spec):
    """Says why no host can run."""

    message: Words
    is_mistake: bool = True
    """Whether it stays until the user mends it; else another try may do."""


class News(NamedTuple):
    """What a broker has to tell of its hosts."""

    broker: str
    """Its id: Ray makes a broker anew that died, and then another id is told."""
    lines: list[str]


@dataclass
class Lease:
    """A trial's right to a slot."""

    lease_id: str
    renewed: float


@dataclass(frozen=True)
class Grant:
    """Gives a trial a lease on a slot of a host."""

    lease: str
    host_id: str
    host: Any
    """Ray's handle of the host."""


class Refused(Spec):
    """Says why a trial gets no slot any more."""

    message: Words
