"""Defines when a field is searched: conditions on other fields of the same point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search_spaces._values import Value, as_raw, as_value, identity, repeated, shown, value_problem
from search_spaces.errors import SpaceError, collected


@dataclass(frozen=True)
class Condition:
    """The condition that `field` has one of `values` in the same point."""

    field: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        problems = values_problems(self.values)
        if problems:
            raise SpaceError([f"when {self.field}: {problem}" for problem in problems])

    def holds(self, value: Value) -> bool:
        """Tells whether `value` is one of the values of the condition."""
        return any(identity(value) == identity(wanted) for wanted in self.values)


def parse_when(raw: object) -> tuple[Condition, ...]:
    """Reads the conditions from the YAML value of `when`. Raises SpaceError."""
    if not isinstance(raw, Mapping) or not raw:
        raise SpaceError(
            [f"when takes {{FIELD: value}} and got {shown(raw)}: name the field and its values, or remove it"]
        )
    problems: list[str] = []
    conditions = []
    for name, values in raw.items():
        listed = values if isinstance(values, list | tuple) else [values]
        with collected(problems):
            conditions.append(Condition(str(name), tuple(as_value(value) for value in listed)))
    if problems:
        raise SpaceError(problems)
    return tuple(conditions)


def raw_when(conditions: Sequence[Condition]) -> dict[str, object]:
    """Returns the YAML value of `when` as plain data."""
    return {condition.field: _raw_values(condition.values) for condition in conditions}


def values_problems(values: Sequence[object]) -> list[str]:
    """Lists the problems of a list of values: it is empty, holds something else than values, or one value twice."""
    if not values:
        return ["the list is empty: name at least one value"]
    problems = [problem for value in values if (problem := value_problem(value))]
    return problems or [f"{shown(value)} is listed twice: keep one" for value in repeated(values)]


def _raw_values(values: tuple[Value, ...]) -> object:
    if len(values) == 1 and not isinstance(values[0], tuple):
        return values[0]
    return [as_raw(value) for value in values]
