"""Checks the portfolio of a search space: the points that the searcher `prior` tries first. Pure."""

from __future__ import annotations

from dataclasses import replace

import search_spaces
from search_spaces.domains import Value
from search_spaces.space import PORTFOLIO, Point, SearchSpace
from sweeps.config import points
from sweeps.config.model import SweepConfig


def settled(config: SweepConfig, space: SearchSpace) -> tuple[SearchSpace, list[str], list[str]]:
    """Returns the space with a portfolio of whole points, a line for each mistake, and a line for what is left out.

    A field that a point leaves out gets the value of the file itself, as in `searcher.points`. In a portfolio that
    comes with a named space, points that no longer fit the changed fields are left out; in any other they are mistakes.

    Args:
        space: as `checks.with_base` returns it; its fields exist.
    """
    whole = []
    wrong: dict[str, None] = {}
    for point in space.portfolio:
        lines = _problems(config, space, point)
        wrong |= dict.fromkeys(lines)
        if not lines:
            whole.append(points.completed(config.base, space, point))
    fitting = replace(space, portfolio=tuple(whole))
    if not wrong:
        return fitting, [], []
    if not _comes_with_a_named_space(space):
        return space, [f"search_space.{PORTFOLIO}: {line}" for line in wrong], []
    left_out = len(space.portfolio) - len(whole)
    return (
        fitting,
        [],
        [
            f"search_space.{PORTFOLIO}: {left_out} of its {len(space.portfolio)} points do not fit the changed fields "
            "and are left out"
        ],
    )


def _problems(config: SweepConfig, space: SearchSpace, point: Point) -> list[str]:
    """Returns "FIELD: reason" for each mistake in a point."""
    return points.unsearched(space, point) or [
        *points.inactive(config.base, space, point),
        *(
            _outside(space, field, value, field in point)
            for field, value in points.completed(config.base, space, point).items()
            if not space.domains[field].contains(value)
        ),
    ]


def _outside(space: SearchSpace, field: str, value: Value, is_given: bool) -> str:
    rule = space.domains[field].refusal(value)
    if is_given:
        return f"{field}: {rule}, or move the point to searcher.points, which may lie outside"
    return f"{field}: a point leaves it out, and the file's own {rule} in the point"


def _comes_with_a_named_space(space: SearchSpace) -> bool:
    return any(space.portfolio == search_spaces.load(name).portfolio for name in search_spaces.available())
