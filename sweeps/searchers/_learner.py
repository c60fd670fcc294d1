"""What the searchers that learn have in common: a history, and points that are not in it yet. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random

from search_spaces.space import Point, SearchSpace
from sweeps.searchers._history import History
from trainables.contract import FailureKind

TRIES = 40
"""Points that a proposal may hold until one of them is new."""
ATTEMPTS = 20
"""Suggestions in a row that the caller dropped, after which points are drawn at random."""

Proposal = Callable[[History, Random, int], Iterator[Point]]
"""From a history, randomness, and the number of suggestions that the caller dropped since the last trial began, to
points in the order of their promise."""


class Learner:
    """See `sweeps.searchers.Searcher`.

    A suggestion follows from the seed, the history and the suggestions that were dropped since it last grew, so the
    order in which results came in does not matter.
    """

    def __init__(self, space: SearchSpace, seed: int, propose: Proposal) -> None:
        self._space = space
        self._seed = seed
        self._propose = propose
        self._history = History()
        self._dropped = 0
        self._is_repeating = False
        """The latest proposal held no new point, and nothing was told since: to compute it again would take long."""

    def suggest(self) -> Point | None:
        """The next point; never ends."""
        dropped, self._dropped = self._dropped, self._dropped + 1
        rng = Random(f"{self._seed}:{len(self._history)}:{dropped}")
        if dropped < ATTEMPTS and not self._is_repeating:
            for point in islice(self._propose(self._history, rng, dropped), TRIES):
                if point not in self._history:
                    return dict(point)
            self._is_repeating = True
        return self._space.sample(rng, len(self._history) + dropped)

    def tell(self, point: Point, resource: int, outcome: float | FailureKind | None, is_final: bool) -> None:
        """Takes notice of a trial that begins, and of a result, also of one that is not the trial's last."""
        if point not in self._history:
            self._dropped = 0
        self._is_repeating = False
        self._history.tell(point, resource, outcome, is_final)
