"""Checks the conditions between the fields of a space, and orders the fields by them."""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces._conditions import Condition
from search_spaces._forms import Domain
from search_spaces._values import shown

_MOST_SHOWN = 12


def structure_problems(domains: Mapping[str, Domain]) -> list[str]:
    """Lists each condition that cannot be met, each circle of conditions, and the problem of a space without fields.

    The caller must check conditions on fields outside the space.
    """
    if not domains:
        return ["search_space: is empty: name at least one field, for example adapter.r: {choice: [8, 16]}"]
    problems = [
        f"{name}: {problem}"
        for name, domain in domains.items()
        for condition in domain.when
        if condition.field in domains and (problem := _condition_problem(condition, domains[condition.field]))
    ]
    circle = _circle(domains)
    if circle:
        problems.append(f"search_space: the conditions {' -> '.join(circle)} wait on each other: remove one when")
    return problems


def ordered(domains: Mapping[str, Domain]) -> tuple[str, ...]:
    """Returns the fields, each after the searched fields in its conditions, otherwise in the given order."""
    done: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in done:
            for asked in _asked(domains, name):
                visit(asked)
            done[name] = None

    for name in domains:
        visit(name)
    return tuple(done)


def _condition_problem(condition: Condition, asked: Domain) -> str | None:
    if asked.size is None:
        return (
            f"when asks for {condition.field}, a continuous range, which hardly ever has one exact value: "
            "give it a choice, or drop the when"
        )
    never = [value for value in condition.values if not asked.contains(value)]
    if not never:
        return None
    takes = shown(asked.values()) if asked.size <= _MOST_SHOWN else shown(asked.to_raw())
    return f"when asks for {condition.field} {shown(never[0])}, which it never takes: use one of {takes}"


def _circle(domains: Mapping[str, Domain]) -> list[str]:
    """Returns the first circle of conditions, as a path that ends at its first field; [] if there is none."""
    clear: set[str] = set()

    def follow(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        for asked in _asked(domains, name) if name not in clear else ():
            if circle := follow(asked, [*path, name]):
                return circle
        clear.add(name)
        return []

    return next((circle for name in domains if (circle := follow(name, []))), [])


def _asked(domains: Mapping[str, Domain], name: str) -> list[str]:
    return [condition.field for condition in domains[name].when if condition.field in domains]
