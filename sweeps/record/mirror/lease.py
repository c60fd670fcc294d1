"""Who may write a mirror: one driver at a time, as long as it renews its lease. Pure.

The clocks of two machines differ, so nobody compares them: a lease has lapsed when the driver that waits has itself
seen it unchanged for as long as it lasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainables.specs import Spec

Verdict = Literal["take", "wait", "refuse"]


class Lease(Spec):
    """The right of one driver to write a mirror."""

    holder: str
    """An id that no other driver has."""
    token: int
    """Grows with each driver: a manifest of a lower token is of a driver that was replaced."""
    beat: int = 0
    """Grows with each renewal."""
    seconds: float
    """How long the lease lasts without a renewal."""
    machine: str
    process: int
    is_released: bool = False
    """Its driver has ended in order."""

    @property
    def who(self) -> str:
        """Its driver, for people."""
        return f"the driver on {self.machine} (process {self.process})"


@dataclass(frozen=True)
class Sighting:
    """A lease as a driver that waits has seen it."""

    lease: Lease
    since: float
    """When this very lease was first seen, in seconds on the clock of the driver that waits."""


def sight(before: Sighting | None, found: Lease, now: float) -> Sighting:
    """What is known once `found` was read at `now`: a lease that has not changed was first seen before."""
    return before if before is not None and before.lease == found else Sighting(found, now)


def verdict(first: Lease, seen: Sighting, now: float, own: str | None = None) -> Verdict:
    """Whether a driver may take the lease over, should look again, or has to leave it to a driver that lives.

    Args:
        first: the lease when the driver first looked.
        seen: the lease as it stands.
        now: seconds on the clock that `seen.since` is on.
        own: the holder that this driver stands in for: a driver of the same folder that is known to be dead.
    """
    lease = seen.lease
    if lease.is_released or lease.holder == own or now - seen.since >= lease.seconds:
        return "take"
    return "wait" if lease == first else "refuse"


def following(mine: Lease, before: Lease | None, floor: int = 0) -> Lease:
    """My lease with the token that follows on another's.

    Args:
        mine: its token is not chosen yet.
        before: the other's; None where there is none.
        floor: a token that has been used, whatever became of its lease.
    """
    return mine.model_copy(update={"token": max(floor, 0 if before is None else before.token) + 1})


def renewed(lease: Lease) -> Lease:
    """The lease with one more beat."""
    return lease.model_copy(update={"beat": lease.beat + 1})


def is_same_hold(mine: Lease, found: Lease) -> bool:
    """Whether `found` is a renewal of `mine`, whose answer may have been lost on its way."""
    return (found.holder, found.token) == (mine.holder, mine.token)
