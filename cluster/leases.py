"""What the broker answers: the hosts that it has, and a lease on a slot or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.hosts import HostFacts
from trainables.contract import Summary
from trainables.inputs.legible import Words
from trainables.specs import Spec


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

    message: Words


@dataclass(frozen=True)
class Grant:
    """A lease on a slot. The host is a Ray actor handle."""

    lease: str
    host_id: str
    host: Any


class Refused(Spec):
    """Why a trial gets no slot any more."""

    message: Words
