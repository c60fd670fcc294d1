"""Counts deaths in a row of hosts, starts and stubs, and judges why: the thing itself, its place, or its node.

A trial that comes to a report point is innocent, and a GPU on which a trial does is sound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import NamedTuple

from ray.exceptions import ActorDiedError, RayError, RayTaskError, RuntimeEnvSetupError

from cluster.hosts import HostPlace

SUSPECT_AFTER = 2
"""What died this many times in a row must be alone on its host, so that the next death has one cause."""
GUILTY_AFTER = 3
"""What died this many times in a row, the last time alone on its host, is not tried again."""
NOWHERE = HostPlace("", ())
"""A place that is not known."""


class Death(NamedTuple):
    """A death at a place."""

    place: HostPlace
    was_alone: bool
    """Whether nothing else that may be to blame was on the host."""


class Deaths:
    """Counts deaths in a row: of the hosts under a trial or at a place, of attempts to start, and of stubs.

    What is counted is named by a key. What went with its node does not count; Ray may notice that seconds later.
    """

    def __init__(
        self,
        is_gone: Callable[[str], bool] = lambda _: False,
        staying: Callable[[Hashable], Collection[HostPlace]] = lambda _: (),
    ) -> None:
        """Starts without deaths.

        Args:
            is_gone: tells whether the node with this id is gone or leaving.
            staying: returns the places of the hosts that take this key, whether they have a free slot or not.
        """
        self._is_gone, self._staying = is_gone, staying
        self._of: dict[Hashable, list[Death]] = {}

    def add(
        self, key: Hashable, place: HostPlace = NOWHERE, was_alone: bool = True, error: Exception | None = None
    ) -> None:
        """Notes a death, unless Ray's error says that the node died."""
        if error is None or not went_with_node(error):
            self._of.setdefault(key, []).append(Death(place, was_alone))

    def forget(self, key: Hashable) -> None:
        """Begins a new row, because something was reached."""
        self._of.pop(key, None)

    def in_a_row(self, key: Hashable) -> int:
        """Returns how many deaths in a row the key may be to blame for."""
        return len(self._counted(key))

    def was_at(self, key: Hashable, place: HostPlace) -> bool:
        """Tells whether one of the deaths was at a place."""
        return any(death.place.overlaps(place) for death in self._counted(key))

    def must_leave(self, key: Hashable) -> bool:
        """Tells whether only another place is to be tried: all deaths were at one place, and there are others.

        Only another place can show whether the key or its GPU is to blame.
        """
        deaths = self._counted(key)
        if len(deaths) < SUSPECT_AFTER or any(not death.place.overlaps(deaths[0].place) for death in deaths):
            return False
        return any(not place.overlaps(deaths[0].place) for place in self._staying(key))

    def is_suspect(self, key: Hashable) -> bool:
        """Tells whether the key must be alone on its next host."""
        return self.in_a_row(key) >= SUSPECT_AFTER and not self.must_leave(key)

    def is_guilty(self, key: Hashable) -> bool:
        """Tells whether the key is not tried again."""
        deaths = self._counted(key)
        return len(deaths) >= GUILTY_AFTER and deaths[-1].was_alone and not self.must_leave(key)

    def _counted(self, key: Hashable) -> Sequence[Death]:
        return [death for death in self._of.get(key, ()) if not self._is_gone(death.place.node_id)]


def is_mistake(error: RayError) -> bool:
    """Tells whether the reason of a failed start stays: an exception, or packages that cannot be installed."""
    is_in_init = isinstance(error, ActorDiedError) and error.actor_init_failed
    return is_in_init or isinstance(error, (RayTaskError, RuntimeEnvSetupError))


def went_with_node(error: Exception) -> bool:
    """Tells whether an actor ended with its node."""
    # Ray reports a node's end only in these words (libray, 2.60), or as a preemption.
    return getattr(error, "preempted", False) or "its node has died" in str(error)


def one_line(error: Exception) -> str:
    """Returns the type of an error and the first line of its text."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def failure_message(error: RayError) -> str:
    """Returns, for the user, why a host failed."""
    cause = getattr(error, "cause", None)
    if cause is not None:
        return str(cause)
    lines = [line for line in str(error).splitlines() if line.strip()]
    if isinstance(error, RuntimeEnvSetupError):
        return f"cluster.runtime_env: it cannot be made ready for a host: {lines[-1].strip()}"
    # Ray's text says that a process died, then, indented, which process, and then why (2.60: ActorDiedError).
    why = [line for line in lines if not line.startswith("\t") and line != ActorDiedError.BASE_ERROR_MSG]
    words, _, _ = (why or lines)[0].partition(" Some common causes")  # several lines of guesses follow
    return f"a host died while it started: {words}"
