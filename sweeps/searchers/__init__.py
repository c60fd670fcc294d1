"""Chooses the next points: one module per searcher, each with a `Config`.

A searcher suggests points and is told their results:

    searcher = Config().build(space, seed=0)
    point = searcher.suggest()
    searcher.tell(point, resource=0, outcome=None, is_final=False)  # a trial begins at the point
    searcher.tell(point, resource=27, outcome=1.84, is_final=False)

The same seed, and the same calls in the same order, give the same points. To rebuild a searcher, tell it all known
results. A searcher that does not learn then begins with its first point again, and the caller drops repeated points.
Modules whose names begin with an underscore are no searchers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from pydantic import BeforeValidator, Field

from search_spaces.space import Point, SearchSpace
from trainables.contract import FailureKind
from trainables.specs import Spec

REPEATED = 3
"""Best trials that `SearcherSettings.repeats` trains again."""


class Searcher(Protocol):
    """Suggests points one after the other."""

    def suggest(self) -> Point | None:
        """Returns the next point; None if there is none left. The caller drops points that repeat and asks again."""

    def tell(self, point: Point, resource: int, outcome: float | FailureKind | None, is_final: bool) -> None:
        """Learns that a trial begins, or a result of a trial.

        Args:
            point: the trial's point, which may be one that was not suggested, even outside the space.
            resource: optimizer steps, or examples, of the trial so far; 0 if the trial never began.
            outcome: a finite value, lower is better; or why there is none ("failed" says nothing about the point); or
                None if the trial begins.
            is_final: whether the trial was trained to its full length, neither stopped nor parked.
        """


def _as_points(raw: object) -> object:
    if not isinstance(raw, list | tuple):
        return raw
    return tuple(
        {name: tuple(value) if isinstance(value, list) else value for name, value in point.items()}
        if isinstance(point, Mapping)
        else point
        for point in raw
    )


class SearcherSettings(Spec):
    """Settings of every searcher; each module here subclasses them as its `Config`."""

    kind: str
    start_with_default: bool = True
    """Whether trial 0 is the configuration of the file itself. It is never stopped early, because the other trials are
    compared with it."""
    points: Annotated[tuple[dict[str, Any], ...], BeforeValidator(_as_points), Field(strict=False)] = ()
    """Points to try before all others; each point maps searched fields to values. A field that is left out keeps the
    value of the file itself."""
    repeats: Annotated[int, Field(ge=0, le=20)] = 0
    """How often each of the best three trials is trained again at the end, each time with another seed. Repeats do not
    count towards budget.trials. Comparisons with the best trial then also count the spread over seeds."""
    warm_start: Annotated[str, Field(min_length=1)] | None = None
    """An earlier sweep in the same MLflow, by its name or id. Its best points are tried first. If base, rows and steps
    are the same, the searcher also learns from its results."""

    def most_repeats(self, trials: int) -> int:
        """Counts the trials that `repeats` adds if `trials` trials are trained to their end."""
        return self.repeats * min(REPEATED, trials)

    def check(self, space: SearchSpace) -> list[str]:
        """Says why this searcher cannot search a space, "field: reason" each."""
        return []

    def size(self, space: SearchSpace) -> int | None:
        """Returns the number of different points; None if it is unlimited."""
        return space.size()

    @abstractmethod
    def build(self, space: SearchSpace, seed: int) -> Searcher:
        """Builds a searcher that has suggested nothing and was told nothing."""
