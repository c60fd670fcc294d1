"""Random search: draws each point independently; `grid` domains take their values in turn.

Bergstra and Bengio, JMLR 2012. Point i depends only on the seed and i.
"""

from __future__ import annotations

from random import Random
from typing import Literal

from search_spaces.space import Point, SearchSpace
from sweeps.searchers import SearcherSettings
from trainables.contract import FailureKind


class Config(SearcherSettings):
    """Points drawn from the space's domains."""

    kind: Literal["random"] = "random"

    def build(self, space: SearchSpace, seed: int) -> RandomSearcher:
        """See `SearcherSettings.build`."""
        return RandomSearcher(space, seed)


class RandomSearcher:
    """See `sweeps.searchers.Searcher`."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._seed = seed
        self._given = 0

    def suggest(self) -> Point | None:
        """Returns a new draw; never None."""
        index, self._given = self._given, self._given + 1
        return self._space.sample(Random(f"{self._seed}:{index}"), index)

    def tell(self, point: Point, resource: int, outcome: float | FailureKind | None, is_final: bool) -> None:
        """Does nothing: draws are independent of results."""
