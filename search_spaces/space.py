"""Defines a search space: the searched fields, their domains and their conditions. Pure; randomness is an argument.

A point holds only the active fields. A field is active when all its conditions hold. A condition reads the value of its
field from the point. If the field is not searched or not active, it reads the value in `base`, set by
`SearchSpace.with_base`. It does not hold for an inactive field without a value in `base`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, product

from search_spaces.domains import Condition, Domain
from search_spaces.domains import parse as parse_domain
from search_spaces.values import SpaceError, Value, as_raw, as_value, shown, value_problem

Point = Mapping[str, Value]
"""Active field -> value, in the order of the space."""

PORTFOLIO = "portfolio"
"""The only key of a space that is not a field: the points to try first."""
MOST_LISTED = 10_000
"""Maximum number of values of one field in a grid."""
_MOST_SHOWN = 12


@dataclass(frozen=True)
class SearchSpace:
    """A search space. Raises SpaceError without fields, for conditions never met, and for circles of conditions."""

    domains: Mapping[str, Domain]
    """Searched field -> its domain, in file order."""
    base: Mapping[str, Value] = field(default_factory=dict, compare=False)
    """Field -> its value when it is not searched, for the fields in conditions."""
    portfolio: tuple[Point, ...] = ()
    """Points to try first, in this order. The searcher ignores those that the space does not contain."""

    def __post_init__(self) -> None:
        if problems := _structure_problems(self.domains):
            raise SpaceError(problems)

    @classmethod
    def parse(cls, raw: object) -> SearchSpace:
        """Reads a search space from a YAML mapping.

        Args:
            raw: field -> a form of `search_spaces.domains`; optionally `portfolio` -> a list of points.

        Raises:
            SpaceError: holds every problem; a line that is not about one field starts with "search_space: ".
        """
        if not isinstance(raw, Mapping):
            example = "{adapter.r: {choice: [8, 16]}}"
            raise SpaceError([f"search_space: {shown(raw)} is not a mapping of fields: write {example}"])
        problems: list[str] = []
        domains: dict[str, Domain] = {}
        portfolio: tuple[Point, ...] = ()
        for name, value in raw.items():
            try:
                if name == PORTFOLIO:
                    portfolio = _parse_portfolio(value)
                elif isinstance(name, str) and name.strip():
                    domains[name] = parse_domain(name, value)
                else:
                    what = f"{shown(name)} is not a field"
                    problems.append(f"search_space: {what}: write its dotted name, such as adapter.r")
            except SpaceError as error:
                problems.extend(error.problems)
        if problems:
            raise SpaceError([*problems, *(_structure_problems(domains) if domains else [])])
        return cls(domains, portfolio=portfolio)

    def to_raw(self) -> dict[str, object]:
        """Returns plain YAML and JSON data, which `parse` turns into an equal space."""
        raw: dict[str, object] = {name: domain.to_raw() for name, domain in self.domains.items()}
        if self.portfolio:
            raw[PORTFOLIO] = [{name: as_raw(value) for name, value in point.items()} for point in self.portfolio]
        return raw

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Returns the fields in the order to choose values: each after those in its conditions, else as in the file."""
        return _ordered(self.domains)

    @property
    def grid_fields(self) -> tuple[str, ...]:
        """Returns the fields with a `grid` domain."""
        return tuple(name for name, domain in self.domains.items() if domain.form == "grid")

    @property
    def grid_size(self) -> int:
        """Returns the number of combinations of the `grid` domains; 1 without any."""
        return math.prod(self.domains[name].size or 1 for name in self.grid_fields)

    def conditions(self) -> dict[str, tuple[Condition, ...]]:
        """Returns field -> its conditions, for the fields that have some."""
        return {name: domain.when for name, domain in self.domains.items() if domain.when}

    def condition_fields(self) -> tuple[str, ...]:
        """Returns the fields in conditions, searched or not. The caller checks them, and calls `with_base`."""
        return tuple({asked.field: None for when in self.conditions().values() for asked in when})

    def with_base(self, base: Mapping[str, Value]) -> SearchSpace:
        """Returns the space with the values of fields that are not searched; `base` needs the `condition_fields`."""
        return replace(self, base=dict(base))

    def is_active(self, name: str, point: Point) -> bool:
        """Tells whether `name` is searched in a point that begins with `point` (active fields before it in `order`).

        Raises:
            SpaceError: a condition is on a field that is neither searched nor in `base`.
        """
        return all(self._holds(name, condition, point) for condition in self.domains[name].when)

    def restrict(self, values: Mapping[str, Value]) -> Point:
        """Returns the point of the active fields among `values`, which has a value for every field."""
        return self.fill(lambda name, _: values[name])

    def fill(self, choose: Callable[[str, Domain], Value]) -> Point:
        """Returns the point whose active fields have the values that `choose` gives them, asked in `order`."""
        point: dict[str, Value] = {}
        for name in self.order:
            if self.is_active(name, point):
                point[name] = choose(name, self.domains[name])
        return self._in_file_order(point)

    def sample(self, rng: random.Random, index: int | None = None) -> Point:
        """Draws a point.

        Args:
            index: the number of the draw. The `grid` fields then take combination `index` (modulo their number; the
                last field changes fastest), so that each comes equally often. None draws these fields too.
        """
        fixed = {} if index is None else self._combination(index)
        return self.fill(lambda name, domain: fixed[name] if name in fixed else domain.sample(rng))

    def grid(self) -> Iterator[Point]:
        """Yields every point once.

        Raises:
            SpaceError: at the call, if a field has more than `MOST_LISTED` values, or is continuous.
        """
        wrong = [
            f"{name}: {domain.size or 'endlessly many'} values are too many for a grid (at most {MOST_LISTED}): "
            "write {choice: [value, value]}, or search at random"
            for name, domain in self.domains.items()
            if domain.size is None or domain.size > MOST_LISTED
        ]
        if wrong:
            raise SpaceError(wrong)
        return self._points(self.order, {})

    def size(self) -> int | None:
        """Returns the number of points.

        None if a field is continuous, or if more than `MOST_LISTED` points differ in fields that conditions tie.
        """
        sizes = {name: domain.size or math.inf for name, domain in self.domains.items()}
        tied = {*self.conditions(), *self.condition_fields()} & sizes.keys()
        if math.inf in sizes.values() or any(sizes[name] > MOST_LISTED for name in tied):
            return None
        points = self._points(tuple(name for name in self.order if name in tied), {})
        combinations = sum(1 for _ in islice(points, MOST_LISTED + 1))
        free = math.prod(self.domains[name].size or 1 for name in sizes.keys() - tied)
        return combinations * free if combinations <= MOST_LISTED else None

    def may_meet(self, one: str, other: str) -> bool:
        """Tells whether a point may have both fields: they are searched, and no field has to have two values."""
        if not {one, other} <= self.domains.keys():
            return False
        whens = [self.domains[name].when for name in (one, other)]
        return not any(
            this.field == that.field and not any(map(that.holds, this.values)) for this, that in product(*whens)
        )

    def contains(self, point: Point) -> bool:
        """Tells whether `point` has exactly the fields that are active in it, each with a value of its domain."""
        if not point.keys() <= self.domains.keys():
            return False
        for name in self.order:
            if self.is_active(name, point) != (name in point):
                return False
            if name in point and not self.domains[name].contains(point[name]):
                return False
        return True

    def _holds(self, name: str, condition: Condition, point: Point) -> bool:
        asked = condition.field
        if asked in point:
            return condition.holds(point[asked])
        if asked in self.base:
            return condition.holds(self.base[asked])
        if asked in self.domains:
            return False
        raise SpaceError(
            [f"{name}: when asks for {asked}, whose value is not known here: search it too, or give it to with_base"]
        )

    def _combination(self, index: int) -> Point:
        left = index % self.grid_size
        combination: dict[str, Value] = {}
        for name in reversed(self.grid_fields):
            options = self.domains[name].values() or ()
            left, place = divmod(left, len(options))
            combination[name] = options[place]
        return combination

    def _points(self, names: tuple[str, ...], point: Point) -> Iterator[Point]:
        if not names:
            yield self._in_file_order(point)
        elif not self.is_active(names[0], point):
            yield from self._points(names[1:], point)
        else:
            for value in self.domains[names[0]].values() or ():
                yield from self._points(names[1:], {**point, names[0]: value})

    def _in_file_order(self, point: Point) -> Point:
        return {name: point[name] for name in self.domains if name in point}


def _parse_portfolio(raw: object) -> tuple[Point, ...]:
    if not isinstance(raw, list | tuple) or not all(isinstance(point, Mapping) for point in raw):
        example = "[{adapter.r: 16, training.learning_rate: 3.0e-4}]"
        raise SpaceError([f"{PORTFOLIO}: {shown(raw)} is not a list of points: write {example}, or remove it"])
    points = tuple({str(name): as_value(value) for name, value in point.items()} for point in raw)
    wrong = [
        f"{PORTFOLIO}: {name}: {problem}"
        for point in points
        for name, value in point.items()
        if (problem := value_problem(value))
    ]
    if wrong:
        raise SpaceError(wrong)
    return points


def _structure_problems(domains: Mapping[str, Domain]) -> list[str]:
    """Lists each condition that cannot be met, a circle of conditions, and the problem of a space without fields.

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
    try:
        _ordered(domains)
    except SpaceError as error:
        problems.extend(error.problems)
    return problems


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


def _ordered(domains: Mapping[str, Domain]) -> tuple[str, ...]:
    """Returns the fields, each after the searched fields in its conditions, otherwise in the given order.

    Raises SpaceError for conditions that wait on each other.
    """
    done: dict[str, None] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise SpaceError([f"search_space: the conditions {circle} wait on each other: remove one when"])
        for condition in domains[name].when if name not in done else ():
            if condition.field in domains:
                visit(condition.field, (*path, name))
        done[name] = None

    for name in domains:
        visit(name, ())
    return tuple(done)
