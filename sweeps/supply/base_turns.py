"""Orders the work of a sweep that searches its base, so that hosts seldom change their base. Pure.

A free slot goes to a trial of the base that its host holds, as long as one is due there. TrialWork on lower rungs comes
first, and a trial goes on from a rung only once the trials of all other bases have passed this rung: so each base is
judged with all others, and in a sweep without failures a host changes its base at most (bases x rungs) times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple


class TrialWork(NamedTuple):
    """A trial that is due, or that trains."""

    trial: str
    base: str
    """See `TrialSpec.base_name`."""
    resource: int
    """Steps or examples at the trial's last report; 0 for a new trial."""


def choose(due: Collection[TrialWork], live: Collection[TrialWork], slots: Mapping[str, int]) -> TrialWork | None:
    """Returns the work that gets a free slot, or that waits for a host to take its base; None if none may begin.

    Args:
        due: new trials, and parked trials that rank high enough to go on, the most urgent first.
        live: trials that have a slot or wait for one.
        slots: base -> slots of the hosts that hold it or will hold it.
    """
    lowest: dict[str, int] = {}
    for work in (*due, *live):
        lowest[work.base] = min(work.resource, lowest.get(work.base, work.resource))
    allowed = [work for work in due if all(work.resource <= low for base, low in lowest.items() if base != work.base)]
    taken = Counter(work.base for work in live)
    own = [work for work in allowed if slots.get(work.base, 0) > taken[work.base]]
    if own:
        return min(own, key=lambda work: work.resource)
    if live and len(live) >= sum(slots.values()):
        return None
    count = Counter((work.base, work.resource) for work in allowed)
    return min(allowed, key=lambda work: (work.resource, -count[work.base, work.resource]), default=None)
