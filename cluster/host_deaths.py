"""Remembers whose hosts died and where, and judges from it: a trial that kills its hosts, or a GPU that kills them.

No Ray. A trial that comes to a report point is innocent, and a GPU on which one does is sound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from cluster.hosts import HostFacts, Place

SUSPECT_AFTER = 2
"""After its hosts died this many times in a row, a trial trains alone, so that the next death has one cause."""
GUILTY_AFTER = 3
"""After its hosts died this many times in a row, the last time while it trained alone, a trial is refused."""


class Death(NamedTuple):
    """A host that died under a trial."""

    place: Place
    was_alone: bool
    """Whether no other trial had a lease on the host."""


class HostDeaths:
    """The deaths in a row of the hosts of each trial. Those that went with their node do not count."""

    def __init__(self, is_gone: Callable[[str], bool], staying: Callable[[], Collection[Place]]) -> None:
        """None so far.

        Args:
            is_gone: tells whether the node with this id is not there any more, or leaves.
            staying: returns the places of the hosts that take trials, whether they have a free slot or not.
        """
        self._is_gone, self._staying = is_gone, staying
        self.of_trials: dict[str, list[Death]] = {}

    def add(self, facts: HostFacts, trials: Collection[str]) -> None:
        """A host died while it had these trials."""
        for trial in trials:
            self.of_trials.setdefault(trial, []).append(Death(facts.place, len(trials) == 1))

    def forget(self, trial: str) -> None:
        """Forgets the deaths of a trial's hosts."""
        self.of_trials.pop(trial, None)

    def number(self, trial: str) -> int:
        """Returns how many deaths in a row the trial may be to blame for."""
        return len(self._counted(trial))

    def was_at(self, trial: str, place: Place) -> bool:
        """Tells whether a host of the trial died at a place."""
        return any(death.place.overlaps(place) for death in self._counted(trial))

    def must_leave(self, trial: str) -> bool:
        """Tells whether the trial goes on at another place only: every death was at one, and there are others.

        Until then it cannot be told whether the trial or its GPU is to blame.
        """
        deaths = self._counted(trial)
        if len(deaths) < SUSPECT_AFTER or any(not death.place.overlaps(deaths[0].place) for death in deaths):
            return False
        return any(not place.overlaps(deaths[0].place) for place in self._staying())

    def is_suspect(self, trial: str) -> bool:
        """Tells whether the trial is to train alone."""
        return self.number(trial) >= SUSPECT_AFTER and not self.must_leave(trial)

    def is_guilty(self, trial: str) -> bool:
        """Tells whether the trial gets no slot any more."""
        deaths = self._counted(trial)
        return len(deaths) >= GUILTY_AFTER and deaths[-1].was_alone and not self.must_leave(trial)

    def _counted(self, trial: str) -> Sequence[Death]:
        return [death for death in self.of_trials.get(trial, ()) if not self._is_gone(death.place.node_id)]
