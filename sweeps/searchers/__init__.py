"""Where the next point comes from: one module per searcher, each with a `Config`.

A searcher is asked for points and told what became of them:

    searcher = Config().build(space, seed=0)
    point = searcher.suggest()
    searcher.tell(point, resource=0, outcome=None, is_final=False)  # a trial begins there
    searcher.tell(point, resource=27, outcome=1.84, is_final=False)

The same seed, and the same calls in the same order, give the same points. A searcher is rebuilt by telling it all that
is known; one that does not learn then begins with its first point again, and the caller drops what it has already.
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
"""How many of the best trials `SearcherSettings.repeats` trains again."""


class Searcher(Protocol):
    """Suggests points one after the other."""

    def suggest(self) -> Point | None:
        """The next point, or None when there is none left.

        Points may repeat. The caller drops those, and asks again until there is one that a trial can begin at.
        """

    def tell(self, point: Point, resource: int, outcome: float | FailureKind | None, is_final: bool) -> None:
        """Takes notice of a trial that begins, or of a result.

        Args:
            point: where the trial is. It need not be one that was suggested, nor lie in the space.
            resource: how far the trial was trained: its optimizer steps, or examples. 0 where it never began.
            outcome: a finite value, lower is better; or why there is none ("failed" says nothing about the point); or
                None where the trial begins.
            is_final: whether the trial was trained to its full length. One that was stopped or parked was not.
        """


def _as_points(raw: object) -> object:
    """YAML's lists of words as tuples, as points hold them."""
    if not isinstance(raw, list | tuple):
        return raw
    return tuple(
        {name: tuple(value) if isinstance(value, list) else value for name, value in point.items()}
        if isinstance(point, Mapping)
        else point
        for point in raw
    )


class SearcherSettings(Spec):
    """What every searcher can be told, and what a module here offers as its `Config`."""

    kind: str
    start_with_default: bool = True
    """Trial 0 is the configuration of the file itself. It is never stopped early: the others are compared with it."""
    points: Annotated[tuple[dict[str, Any], ...], BeforeValidator(_as_points), Field(strict=False)] = ()
    """Points to try before any others, a mapping from searched fields to values each. A field that is left out keeps
    the value of the file itself."""
    repeats: Annotated[int, Field(ge=0, le=20)] = 0
    """How often the best three trials are trained again at the end, each time with another seed. budget.trials does not
    count them. How far they come out differently is then part of what is said of the best trial."""
    warm_start: Annotated[str, Field(min_length=1)] | None = None
    """An earlier sweep in the same MLflow, by its name or id. Its best points are tried first. Where base, rows and
    steps are the same, its results are known to the searcher too."""

    def most_repeats(self, trials: int) -> int:
        """How many trials `repeats` adds at the end when so many are trained to theirs."""
        return self.repeats * min(REPEATED, trials)

    def check(self, space: SearchSpace) -> list[str]:
        """Why this space can't be searched this way, "field: reason" each."""
        return []

    def size(self, space: SearchSpace) -> int | None:
        """How many different points there are to suggest; None when they do not run out."""
        return space.size()

    @abstractmethod
    def build(self, space: SearchSpace, seed: int) -> Searcher:
        """The searcher, at its beginning."""
