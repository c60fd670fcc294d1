"""Remembers which hosts died, and judges why: a trial kills its hosts, a GPU kills them, or the start cannot succeed.

A trial that comes to a report point is innocent, and a GPU on which a trial does is sound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from ray.exceptions import ActorDiedError, RayError, RayTaskError, RuntimeEnvSetupError

from cluster.broker_answers import NotReady
from cluster.host_states import Starting
from cluster.hosts import HostFacts, HostPlace

SUSPECT_AFTER = 2
"""A trial whose hosts died this many times in a row trains alone, so that the next death has one cause."""
GUILTY_AFTER = 3
"""A trial whose hosts died this many times in a row, the last time while it trained alone, is refused."""
MOST_START_DEATHS = 3
"""The start fails after this many attempts in a row whose hosts died while they started, on nodes that stay."""


class Death(NamedTuple):
    """A host that died under a trial."""

    place: HostPlace
    was_alone: bool
    """Whether no other trial had a lease on the host."""


class HostDeaths:
    """Counts the deaths in a row of each trial's hosts. Hosts that went with their node do not count."""

    def __init__(self, is_gone: Callable[[str], bool], staying: Callable[[], Collection[HostPlace]]) -> None:
        """Starts without deaths.

        Args:
            is_gone: tells whether the node with this id is gone or leaving.
            staying: returns the places of the hosts that take trials, whether they have a free slot or not.
        """
        self._is_gone, self._staying = is_gone, staying
        self.of_trials: dict[str, list[Death]] = {}

    def add(self, facts: HostFacts, trials: Collection[str]) -> None:
        """Notes that a host died while it had these trials."""
        for trial in trials:
            self.of_trials.setdefault(trial, []).append(Death(facts.place, len(trials) == 1))

    def forget(self, trial: str) -> None:
        """Forgets the deaths of the trial's hosts."""
        self.of_trials.pop(trial, None)

    def number(self, trial: str) -> int:
        """Returns how many deaths in a row the trial may be to blame for."""
        return len(self._counted(trial))

    def was_at(self, trial: str, place: HostPlace) -> bool:
        """Tells whether a host of the trial died at a place."""
        return any(death.place.overlaps(place) for death in self._counted(trial))

    def must_leave(self, trial: str) -> bool:
        """Tells whether the trial goes on only at another place: all deaths were at one place, and there are others.

        Only another place can show whether the trial or its GPU is to blame.
        """
        deaths = self._counted(trial)
        if len(deaths) < SUSPECT_AFTER or any(not death.place.overlaps(deaths[0].place) for death in deaths):
            return False
        return any(not place.overlaps(deaths[0].place) for place in self._staying())

    def is_suspect(self, trial: str) -> bool:
        """Tells whether the trial must train alone."""
        return self.number(trial) >= SUSPECT_AFTER and not self.must_leave(trial)

    def is_guilty(self, trial: str) -> bool:
        """Tells whether the trial gets no further slot."""
        deaths = self._counted(trial)
        return len(deaths) >= GUILTY_AFTER and deaths[-1].was_alone and not self.must_leave(trial)

    def _counted(self, trial: str) -> Sequence[Death]:
        return [death for death in self.of_trials.get(trial, ()) if not self._is_gone(death.place.node_id)]


class StartDeaths:
    """Counts the attempts in a row whose hosts died while they started, before the first host was ready.

    Hosts that were made before the first of them died belong to one attempt: one cause may have ended them all.
    """

    def __init__(self) -> None:
        self.attempts = 0
        """Attempts that have failed so far; `clear` does not reset the number."""
        self._nodes: list[list[str]] = []
        """For each attempt in a row the ids of the nodes where hosts died: `""` for an unknown node."""
        self._last = ""

    def add(self, host: Starting, error: RayError) -> None:
        """Notes a host that died while it started, unless Ray says that its node died."""
        self._last = failure_message(error)
        if not went_with_node(error):
            if host.attempt == self.attempts or not self._nodes:
                self.attempts += 1
                self._nodes.append([])
            self._nodes[-1].append(host.node_id or "")

    def clear(self) -> None:
        """Begins a new row of attempts, because a host is ready."""
        self._nodes.clear()

    def problem(self, is_gone: Callable[[str], bool]) -> NotReady | None:
        """Returns why the start fails, if so, and begins a new row. Attempts on nodes that are gone do not count."""
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
