"""Tree-structured Parzen estimator (TPE): suggests points where good results are dense and bad results are rare.

Bergstra et al., NeurIPS 2011; Optuna 5 computes the estimator (see `sweeps.searchers._parzen`), which learns from every
rung, not only from trials that ended. The first points are drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Literal

from search_spaces.space import Point, SearchSpace
from sweeps.searchers import SearcherSettings, _parzen
from sweeps.searchers._learner import History, Learner

STARTUP = 10
"""Results that the estimator needs; Optuna's own number."""


class Config(SearcherSettings):
    """Points where results so far are good."""

    kind: Literal["tpe"] = "tpe"

    def build(self, space: SearchSpace, seed: int) -> Learner:
        """See `SearcherSettings.build`."""
        return Learner(space, seed, lambda history, rng, dropped: _propose(space, history, rng))


def _propose(space: SearchSpace, history: History, rng: Random) -> Iterator[Point]:
    return _parzen.points(space, history, rng.getrandbits(32)) if len(history.with_results) >= STARTUP else iter(())
