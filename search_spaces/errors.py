"""Errors of this package.

SpaceError (ValueError)    a search space, or one of its fields, says something that cannot be; holds every problem
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class SpaceError(ValueError):
    """The search space is wrong; the user can mend it, so it prints without a traceback.

    Attributes:
        problems: one line each, "field: value and rule, way out".
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[SpaceError], tuple[tuple[str, ...]]]:
        return SpaceError, (self.problems,)


@contextmanager
def collected(problems: list[str], prefix: str = "") -> Iterator[None]:
    """Appends the problems of a SpaceError raised inside to `problems`, each behind `prefix`, and goes on after."""
    try:
        yield
    except SpaceError as error:
        problems.extend(f"{prefix}{problem}" for problem in error.problems)
