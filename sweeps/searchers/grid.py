"""Grid search: every combination of the space's values, in the order of the file, the last field fastest."""

from __future__ import annotations

from typing import Literal

from search_spaces.space import Point, SearchSpace
from sweeps.searchers import SearcherSettings
from trainables.contract import FailureKind


class Config(SearcherSettings):
    """All combinations of choices and grids."""

    kind: Literal["grid"] = "grid"

    def check(self, space: SearchSpace) -> list[str]:
        """Refuses continuous domains, which have no grid."""
        return [
            f"search_space.{field}: a continuous domain has no grid; list its values: {{choice: [...]}}, "
            "or use searcher.kind=random"
            for field, domain in space.domains.items()
            if domain.size is None
        ]

    def build(self, space: SearchSpace, seed: int) -> GridSearcher:
        """See `SearcherSettings.build`."""
        return GridSearcher(space)


class GridSearcher:
    """See `sweeps.searchers.Searcher`."""

    def __init__(self, space: SearchSpace) -> None:
        self._points = space.grid()

    def suggest(self) -> Point | None:
        """Returns the next combination; None after the last."""
        return next(self._points, None)

    def tell(self, point: Point, resource: int, outcome: float | FailureKind | None, is_final: bool) -> None:
        """Does nothing: the order of a grid is fixed."""
