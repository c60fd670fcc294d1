"""Defines the error of this package.

SpaceError (ValueError)    a search space, or one of its fields, is wrong; holds every problem
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class SpaceError(ValueError):
    """The search space is wrong. The user can correct it, so it is printed without a traceback.

    Attributes:
        problems: one line each, "field: value and rule: what to do".
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[SpaceError], tuple[tuple[str, ...]]]:
        return SpaceError, (self.problems,)


@contextmanager
def collected(problems: list[str], prefix: str = "") -> Iterator[None]:
    """Catches a SpaceError raised inside, and appends its problems to `problems`, each after `prefix`."""
    try:
        yield
    except SpaceError as error:
        problems.extend(f"{prefix}{problem}" for problem in error.problems)
