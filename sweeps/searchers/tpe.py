"""Tree-structured Parzen estimator (TPE): points where good results are dense and bad ones are rare.

Bergstra et al., NeurIPS 2011; Optuna 5 computes it (see `sweeps.searchers._parzen`). It learns from every rung, not
only from trials that ended. The first points are those that random search would draw with the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from random import Random
from typing import Literal

from search_spaces.domains import Value
from search_spaces.space import SearchSpace
from sweeps.searchers import SearcherSettings, _parzen
from sweeps.searchers._history import History
from trainables.contract import FailureKind

STARTUP = 10
"""Results that the estimator needs; Optuna's own number."""
TRIES = 20
"""Points that the estimator may propose until one is new. Where it knows no new one, the point is drawn."""


class Config(SearcherSettings):
    """Points where results so far are good."""

    kind: Literal["tpe"] = "tpe"

    def check(self, space: SearchSpace) -> list[str]:
        """Every space can be searched."""
        return []

    def size(self, space: SearchSpace) -> int | None:
        """The number of different points; None when a domain is continuous."""
        return space.size()

    def build(self, space: SearchSpace, seed: int) -> TpeSearcher:
        """The searcher, at its first point."""
        return TpeSearcher(space, seed)


class TpeSearcher:
    """See `sweeps.searchers.Searcher`."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._seed = seed
        self._given = 0
        self._history = History()

    def suggest(self) -> dict[str, Value] | None:
        """The next point; never ends."""
        index, self._given = self._given, self._given + 1
        point = self._space.sample(Random(f"{self._seed}:{index}"), index)
        if len(self._history.told) >= STARTUP:
            proposed = _parzen.points(self._space, self._history, Random(f"{self._seed}:{index}:tpe").getrandbits(32))
            point = next((new for new in islice(proposed, TRIES) if new not in self._history), point)
        self._history.suggested(point)
        return point

    def tell(self, point: Mapping[str, Value], resource: int, outcome: float | FailureKind, is_final: bool) -> None:
        """Takes notice of a result, also of one that is not the trial's last."""
        self._history.tell(point, resource, outcome, is_final)
