"""What the searchers that learn have in common: a history of points and results, and points that are not in it yet.

Pure.
"""

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
"""Points that a proposal may hold until one of them is new."""
ATTEMPTS = 20
"""Suggestions in a row that the caller dropped, after which points are drawn at random."""


@dataclass(frozen=True)
class TriedPoint:
    """A point that a trial has."""

    point: Point
    values: Mapping[int, float] = field(default_factory=dict)
    """Resource -> the value there, lower is better."""
    failure: FailureKind | None = None
    is_final: bool = False
    """It was trained to its full length."""

    @property
    def is_open(self) -> bool:
        """Whether nothing is known of the point yet."""
        return not self.values and self.failure is None

    def judged_at(self, common: Set[int]) -> int:
        """The furthest resource where other points have values too, which `common` holds; else its own first.

        So the default configuration, which is never stopped, does not pass for the best while it is ahead alone.
        """
        return max(self.values.keys() & common, default=min(self.values))


def key(point: Point) -> Key:
    """What two equal points share."""
    return frozenset((name, identity(value)) for name, value in point.items())


class History:
    """Every point once, in the order in which it was first heard of."""

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
            pass  # the trial has begun: the point is there, and open
        elif isinstance(outcome, str):
            seen = replace(seen, failure=outcome)
        else:
            seen = replace(seen, values={**seen.values, resource: outcome}, is_final=seen.is_final or is_final)
        self._seen[key(point)] = seen

    @property
    def seen(self) -> tuple[TriedPoint, ...]:
        """All points. Those that failed without fault of the point, before they had a value, are left out."""
        return tuple(seen for seen in self._seen.values() if seen.values or seen.failure != "failed")

    @property
    def told(self) -> tuple[TriedPoint, ...]:
        """The points whose results say something."""
        return tuple(seen for seen in self.seen if not seen.is_open)

    @property
    def common(self) -> frozenset[int]:
        """The resources at which more than one point has a value: what only one has reached compares with nothing."""
        reached = Counter(resource for seen in self.told for resource in seen.values)
        return frozenset(resource for resource, times in reached.items() if times > 1)

    def ranked(self) -> list[TriedPoint]:
        """The points that have values and did not fail, the best one first.

        A point that was trained further comes before others, because it was let on as one of the best.
        """
        usable = [seen for seen in self.told if seen.values and seen.failure in (None, "failed")]
        common = self.common
        return sorted(usable, key=lambda seen: (-seen.judged_at(common), seen.values[seen.judged_at(common)]))


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
