"""Times the parts of a host's work, and tells whether the present part takes far too long. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from cluster import timeouts
from trainables.specs import Spec

WorkKind = Literal["step", "evaluation", "evaluation of answers", "evaluation of the base", "change of trials"]
"""Kinds of work, timed apart: the base's evaluation may be read from the disk, and the time for a loss tells nothing of
the time for answers."""
PATIENCE_FACTOR = 20
"""A part may last this many times the slowest part so far: other load or longer rows make some parts slower."""


class Doing(Spec):
    """The present work of a host."""

    what: WorkKind | Literal["answer"]
    seconds: float
    """Time since the work began."""
    usual: float | None
    """Seconds that the slowest part so far would have taken for as much work; None for the first of its kind."""
    patience: float
    """Seconds after which the work takes far too long."""


class Silent(Spec):
    """A host whose work takes far too long: it may hang, and nobody else would notice."""

    pid: int
    node: str
    """IP address of its machine."""
    trials: tuple[str, ...]
    """The keys of its trials."""
    what: WorkKind | Literal["answer"]
    usual: float | None
    """See `Doing`."""
    since: float
    """Time at which the host began this work, in seconds since the epoch."""


class Pace:
    """Times the work of one thread; any thread may ask."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._now: tuple[WorkKind, int, float] | None = None
        self._slowest: dict[WorkKind, tuple[float, float]] = {}
        """Kind -> most seconds of a part, and most seconds per unit of a part's size."""

    @contextmanager
    def does(self, what: WorkKind, size: int = 1) -> Iterator[None]:
        """Times the block; `size` is its amount of work, in any unit that is the same within a kind."""
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
        """Returns what the host is doing; None between two blocks."""
        now = self._now
        if now is None:
            return None
        what, size, began = now
        seconds, known = self._clock() - began, self._slowest.get(what)
        if known is None:
            return Doing(what=what, seconds=seconds, usual=None, patience=timeouts.HANG_AT_FIRST_SECONDS)
        usual = max(known[0], known[1] * size)
        return Doing(
            what=what, seconds=seconds, usual=usual, patience=max(timeouts.HANG_SECONDS, PATIENCE_FACTOR * usual)
        )


@dataclass
class Pulse:
    """The answers of a host to a caller that asks every few seconds."""

    doing: Doing | None = None
    """The latest answer."""
    unanswered: float | None = None
    """Time of the first unanswered question since the latest answer."""

    def heard(self, doing: Doing | None) -> None:
        """Notes an answer."""
        self.doing, self.unanswered = doing, None

    def missed(self, asked: float) -> None:
        """Notes that the question of time `asked` was not answered in time."""
        if self.unanswered is None:
            self.unanswered = asked

    def overdue(self, now: float) -> Doing | None:
        """Returns the work or the answer that takes far too long, if so; `now` is a time of the clock of `missed`."""
        if self.doing is not None and self.doing.seconds > self.doing.patience:
            return self.doing
        if self.unanswered is None:
            return None
        seconds, patience = (
            now - self.unanswered,
            max(timeouts.HANG_SECONDS, self.doing.patience if self.doing else 0.0),
        )
        return Doing(what="answer", seconds=seconds, usual=None, patience=patience) if seconds > patience else None
