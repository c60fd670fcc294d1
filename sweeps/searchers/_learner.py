"""Common parts of the searchers that learn: a history of points and results, and the choice of new points. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from random import Random

from search_spaces.domains import identity
from search_spaces.space import Point, SearchSpace
from trainables.contract import FailureKind

Key = frozenset[tuple[str, object]]
TRIES = 40
"""Points of a proposal that are looked at until one is new."""
ATTEMPTS = 20
"""Suggestions in a row that the caller dropped, after which points are drawn at random."""


@dataclass(frozen=True)
class TriedPoint:
    """The point of a trial, with its results."""

    point: Point
    values: Mapping[int, float] = field(default_factory=dict)
    """Resource -> value, lower is better."""
    failure: FailureKind | None = None
    is_final: bool = False
    """Whether the trial was trained to its full length."""

    @property
    def is_open(self) -> bool:
        """Tells whether the point has no result yet."""
        return not self.values and self.failure is None

    def judged_at(self, common: Set[int]) -> int:
        """Returns the furthest of the point's resources that is in `common`; without any, its first resource.

        The default configuration is never stopped, so it may be far ahead of other trials. Judged there, it would count
        as the best only because no other trial has come that far.
        """
        return max(self.values.keys() & common, default=min(self.values))


def key(point: Point) -> Key:
    """Returns a key that equal points share."""
    return frozenset((name, identity(value)) for name, value in point.items())


class History:
    """Every point once, in the order in which the points were first told."""

    def __init__(self) -> None:
        self._seen: dict[Key, TriedPoint] = {}

    def __contains__(self, point: Point) -> bool:
        return key(point) in self._seen

    def __len__(self) -> int:
        return len(self._seen)

    def tell(self, point: Point, resource: int, outcome: float | FailureKind | None, is_final: bool) -> None:
        """See `sweeps.searchers.Searcher.tell`."""
        seen = self._seen.get(key(point), TriedPoint(dict(point)))
        if outcome is None:
            pass  # the trial has begun: its point is open
        elif isinstance(outcome, str):
            seen = replace(seen, failure=outcome)
        else:
            seen = replace(seen, values={**seen.values, resource: outcome}, is_final=seen.is_final or is_final)
        self._seen[key(point)] = seen

    @property
    def seen(self) -> tuple[TriedPoint, ...]:
        """Returns all points but those without a value whose failure says nothing about the point ("failed")."""
        return tuple(seen for seen in self._seen.values() if seen.values or seen.failure != "failed")

    @property
    def with_results(self) -> tuple[TriedPoint, ...]:
        """Returns the points with a result."""
        return tuple(seen for seen in self.seen if not seen.is_open)

    @property
    def common(self) -> frozenset[int]:
        """Returns the resources at which two or more points have a value, so that they can be compared there."""
        reached = Counter(resource for seen in self.with_results for resource in seen.values)
        return frozenset(resource for resource, times in reached.items() if times > 1)

    def ranked(self) -> list[TriedPoint]:
        """Returns the points with values, best first; none that diverged, was infeasible or ran out of memory.

        A point that was trained further comes first, because the scheduler let it go on as one of the best.
        """
        usable = [seen for seen in self.with_results if seen.values and seen.failure in (None, "failed")]
        common = self.common
        return sorted(usable, key=lambda seen: (-seen.judged_at(common), seen.values[seen.judged_at(common)]))


Proposal = Callable[[History, Random, int], Iterator[Point]]
"""Yields points, the most promising first. Takes a history, randomness, and the number of suggestions that the caller
dropped since the last trial began."""


class Learner:
    """A searcher that learns, see `sweeps.searchers.Searcher`.

    A suggestion depends only on the seed, the history and the number of suggestions dropped since the history grew. The
    order of results does not matter.
    """

    def __init__(self, space: SearchSpace, seed: int, propose: Proposal) -> None:
        self._space = space
        self._seed = seed
        self._propose = propose
        self._history = History()
        self._dropped = 0
        self._is_repeating = False
        """Whether the latest proposal held no new point and nothing was told since. Then no proposal is computed."""

    def suggest(self) -> Point | None:
        """Returns the next point; never None."""
        dropped, self._dropped = self._dropped, self._dropped + 1
        rng = Random(f"{self._seed}:{len(self._history)}:{dropped}")
        if dropped < ATTEMPTS and not self._is_repeating:
            for point in islice(self._propose(self._history, rng, dropped), TRIES):
                if point not in self._history:
                    return dict(point)
            self._is_repeating = True
        return self._space.sample(rng, len(self._history) + dropped)

    def tell(self, point: Point, resource: int, outcome: float | FailureKind | None, is_final: bool) -> None:
        """See `sweeps.searchers.Searcher.tell`."""
        if point not in self._history:
            self._dropped = 0
        self._is_repeating = False
        self._history.tell(point, resource, outcome, is_final)
