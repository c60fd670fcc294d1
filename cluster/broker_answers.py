"""The broker's answers: its hosts are ready or not, and a trial gets a slot or is refused."""

from __future__ import annotations

from typing import NamedTuple

from cluster.hosts import HostFacts
from trainables.contract import FailureKind, Summary
from trainables.specs import Spec, Words


class Ready(Spec):
    """Says that all hosts run."""

    data: Summary
    hosts: tuple[HostFacts, ...]
    held: int = 0
    """Hosts that hold a place, also those that still load."""
    held_seconds: float = 0.0
    """Seconds that all hosts have held their places so far. A host that waits for a free GPU holds no place."""

    @property
    def slots(self) -> int:
        """Returns the number of slots of all hosts."""
        return sum(host.slots for host in self.hosts)


class NotReady(Spec):
    """Says why no host can run."""

    message: Words
    is_mistake: bool = True
    """Whether the reason stays until the user mends it. If not, another try may succeed."""


class News(NamedTuple):
    """Lines about a broker's hosts."""

    broker: str
    """The broker's id. It changes when Ray makes a dead broker anew."""
    lines: list[str]


class Lease(NamedTuple):
    """A trial's right to a slot of a host."""

    id: str
    host_id: str


class Refused(Spec):
    """Says why a trial gets no slot any more."""

    message: Words
    kind: FailureKind = "failed"
