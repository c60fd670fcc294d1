"""How long the parts of a host's work take, and whether the present part takes far too long. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from cluster import timeouts
from trainables.specs import Spec

Work = Literal["step", "evaluation", "evaluation of answers", "evaluation of the base", "change of trials"]
"""Kinds of work. The base's evaluation may be read from the disk, which says nothing of how long another takes; that of
the loss says nothing of how long answers take."""
TIMES = 20
"""So many times the slowest part so far may one last: other load, or longer rows, make some slower than others."""


class Doing(Spec):
    """What a host is doing."""

    what: Work | Literal["answer"]
    seconds: float
    """For how long."""
    usual: float | None
    """What the slowest so far would have taken for as much work; None for the first of its kind."""
    patience: float
    """From so many seconds on it takes far too long."""


class Silent(Spec):
    """A host whose work takes far too long: it may hang, and nobody else would notice."""

    pid: int
    node: str
    """IP address of its machine."""
    trials: tuple[str, ...]
    """The keys of its trials."""
    what: Work | Literal["answer"]
    usual: float | None
    """See `Doing`."""
    since: float
    """When the host began this work, in seconds since the epoch."""


class Pace:
    """Times what one thread does; any other may ask."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Nothing done; `clock` tells seconds."""
        self._clock = clock
        self._now: tuple[Work, int, float] | None = None
        self._slowest: dict[Work, tuple[float, float]] = {}
        """Kind -> the most seconds that a part has taken, and the most seconds for each unit of its size."""

    @contextmanager
    def does(self, what: Work, size: int = 1) -> Iterator[None]:
        """Times the block; `size` says how much work it is beside others of its kind."""
        began = self._clock()
        self._now = what, size, began
        try:
            yield
        finally:
            self._now = None
        took = self._clock() - began
        most, most_each = self._slowest.get(what, (0.0, 0.0))
        self._slowest[what] = max(most, took), max(most_each, took / size)

    def doing(self) -> Doing | None:
        """What the host is doing; None between two blocks."""
        now = self._now
        if now is None:
            return None
        what, size, began = now
        seconds, known = self._clock() - began, self._slowest.get(what)
        if known is None:
            return Doing(what=what, seconds=seconds, usual=None, patience=timeouts.HANG_AT_FIRST_SECONDS)
        usual = max(known[0], known[1] * size)
        return Doing(what=what, seconds=seconds, usual=usual, patience=max(timeouts.HANG_SECONDS, TIMES * usual))


@dataclass
class Pulse:
    """What is heard of a host, by who asks it every few seconds."""

    doing: Doing | None = None
    """As it has answered last."""
    unanswered: float | None = None
    """When the first question was asked of those in a row that it has not answered."""

    def heard(self, doing: Doing | None) -> None:
        """It has answered."""
        self.doing, self.unanswered = doing, None

    def missed(self, asked: float) -> None:
        """It has not answered in time what it was asked at `asked`."""
        if self.unanswered is None:
            self.unanswered = asked

    def overdue(self, now: float) -> Doing | None:
        """What takes far too long, if something does; `now` is of the clock of `missed`."""
        if self.doing is not None and self.doing.seconds > self.doing.patience:
            return self.doing
        if self.unanswered is None:
            return None
        seconds, patience = (
            now - self.unanswered,
            max(timeouts.HANG_SECONDS, self.doing.patience if self.doing else 0.0),
        )
        return Doing(what="answer", seconds=seconds, usual=None, patience=patience) if seconds > patience else None
