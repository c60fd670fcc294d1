"""A search space: which fields are searched, over what, and under which conditions. Pure; randomness is an argument.

A point holds the fields that are searched in it, the active ones. A field with conditions is active where all of them
hold; a condition looks at the value in the point, else (a field outside the space, or one that is inactive) at the
base's value, which `SearchSpace.with_base` makes known. An inactive field whose base value isn't known meets none.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from search_spaces._structure import ordered, structure_problems
from search_spaces._values import Value, as_raw, as_value, identity, shown, value_problem
from search_spaces.domains import Condition, Domain, Grid
from search_spaces.domains import parse as parse_domain
from search_spaces.errors import SpaceError, collected

Point = dict[str, Value]
"""Searched field -> value, active fields only, in the order of the space."""

PORTFOLIO = "portfolio"
"""The one key of a space's mapping that is no field: the points to try first."""
MOST_LISTED = 10_000
"""Values of one field that a grid will go through."""
_ANY_OTHER = ""  # stands for all values that no condition names: an empty word is no value of any domain


@dataclass(frozen=True)
class SearchSpace:
    """What is searched. Raises SpaceError without fields, for conditions never met, and for circles of conditions."""

    domains: Mapping[str, Domain]
    """Searched field -> its domain, in file order."""
    base: Mapping[str, Value] = field(default_factory=dict, compare=False)
    """What fields hold where they are not searched, as far as conditions ask."""
    portfolio: tuple[Mapping[str, Value], ...] = ()
    """Points to try first, the most promising one first. One that the space does not contain counts for nothing."""

    def __post_init__(self) -> None:
        if problems := structure_problems(self.domains):
            raise SpaceError(problems)

    @classmethod
    def parse(cls, raw: object) -> SearchSpace:
        """The search space that a YAML mapping describes.

        Args:
            raw: field -> a form of `search_spaces.domains`; perhaps `portfolio` -> a list of points.

        Raises:
            SpaceError: with every problem of every field; a line that is not about one field starts "search_space: ".
        """
        if not isinstance(raw, Mapping):
            example = "{adapter.r: {choice: [8, 16]}}"
            raise SpaceError([f"search_space: {shown(raw)} is no mapping of fields: write {example}"])
        problems: list[str] = []
        found: dict[str, Domain] = {}
        portfolio: tuple[Point, ...] = ()
        for name, value in raw.items():
            if name == PORTFOLIO:
                with collected(problems):
                    portfolio = _parse_portfolio(value)
                continue
            if not isinstance(name, str) or not name.strip():
                problems.append(f"search_space: {shown(name)} is no field: write its dotted name, such as adapter.r")
                continue
            with collected(problems):
                found[name] = parse_domain(name, value)
        problems += structure_problems(found) if found else []
        if problems:
            raise SpaceError(problems)
        return cls(found, portfolio=portfolio)

    def to_raw(self) -> dict[str, object]:
        """Plain YAML and JSON data that `parse` turns into an equal space."""
        raw: dict[str, object] = {name: domain.to_raw() for name, domain in self.domains.items()}
        if self.portfolio:
            raw[PORTFOLIO] = [{name: as_raw(value) for name, value in point.items()} for point in self.portfolio]
        return raw

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The fields, each after those that its conditions ask for, else in file order: choose values in this order."""
        return ordered(self.domains)

    @property
    def grid_fields(self) -> tuple[str, ...]:
        """The fields with a `grid` domain."""
        return tuple(name for name, domain in self.domains.items() if isinstance(domain, Grid))

    @property
    def grid_size(self) -> int:
        """How many combinations the `grid` domains have; 1 without any."""
        return math.prod(self.domains[name].size or 1 for name in self.grid_fields)

    def conditions(self) -> dict[str, tuple[Condition, ...]]:
        """Conditional field -> its conditions."""
        return {name: domain.when for name, domain in self.domains.items() if domain.when}

    def condition_fields(self) -> tuple[str, ...]:
        """The fields that conditions ask for, searched or not: for `with_base`, and for the caller to check."""
        return tuple({asked.field: None for when in self.conditions().values() for asked in when})

    def with_base(self, base: Mapping[str, Value]) -> SearchSpace:
        """The same space that knows what fields hold where they are not searched: the `condition_fields` at least."""
        return replace(self, base=dict(base))

    def is_active(self, name: str, point: Mapping[str, Value]) -> bool:
        """Whether `name` is searched in a point that holds `point` (at least the active fields before it in `order`).

        Raises:
            SpaceError: a condition asks for a field that is neither searched nor known from `with_base`.
        """
        return all(self._holds(name, condition, point) for condition in self.domains[name].when)

    def restrict(self, values: Mapping[str, Value]) -> Point:
        """The point with the given values: those of the fields that are active at them. `values` has every field."""
        point: Point = {}
        for name in self.order:
            if self.is_active(name, point):
                point[name] = values[name]
        return self._in_file_order(point)

    def sample(self, rng: random.Random, index: int | None = None) -> Point:
        """A point drawn with `rng`.

        Args:
            rng: the only source of randomness.
            index: the number of the draw. Given, the `grid` fields take combination `index` (modulo their number,
                the last field changing fastest), so that each comes equally often; the others are drawn.
        """
        fixed = {} if index is None else self._combination(index)
        point: Point = {}
        for name in self.order:
            if self.is_active(name, point):
                point[name] = fixed[name] if name in fixed else self.domains[name].sample(rng)
        return self._in_file_order(point)

    def grid(self) -> Iterator[Point]:
        """Every point once.

        Raises:
            SpaceError: at the call, when a field is continuous or has more than `MOST_LISTED` values.
        """
        problems = []
        for name, domain in self.domains.items():
            if domain.size is None and self.size() is None:
                problems.append(f"{name}: {domain.form()} is continuous, and a grid needs values to go through")
            elif domain.size is not None and domain.size > MOST_LISTED:
                problems.append(f"{name}: {domain.size} values are too many for a grid (at most {MOST_LISTED})")
        if problems:
            way_out = "write {choice: [value, value]}, or search at random"
            raise SpaceError([f"{problem}: {way_out}" for problem in problems])
        listed = {name: domain.values() or () for name, domain in self.domains.items()}
        return self._points(self.order, {}, listed)

    def size(self) -> int | None:
        """How many points there are; None when a field that can be active is continuous."""
        counts = [count for _, count in self._shapes()]
        return None if None in counts else sum(count or 0 for count in counts)

    def may_meet(self, one: str, other: str) -> bool:
        """Whether some point has both fields."""
        return any(one in shape and other in shape for shape, _ in self._shapes())

    def contains(self, point: Mapping[str, Value]) -> bool:
        """Whether `point` has exactly the fields that are active in it, each with a value of its domain."""
        if not point.keys() <= self.domains.keys():
            return False
        for name in self.order:
            if self.is_active(name, point) != (name in point):
                return False
            if name in point and not self.domains[name].contains(point[name]):
                return False
        return True

    def _holds(self, name: str, condition: Condition, point: Mapping[str, Value]) -> bool:
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
        combination: Point = {}
        for name in reversed(self.grid_fields):
            options = self.domains[name].values() or ()
            left, place = divmod(left, len(options))
            combination[name] = options[place]
        return combination

    def _points(self, names: tuple[str, ...], point: Point, listed: Mapping[str, tuple[Value, ...]]) -> Iterator[Point]:
        if not names:
            yield self._in_file_order(point)
        elif not self.is_active(names[0], point):
            yield from self._points(names[1:], point, listed)
        else:
            for value in listed[names[0]]:
                yield from self._points(names[1:], {**point, names[0]: value}, listed)

    def _shapes(self) -> list[tuple[Point, int | None]]:
        """Which fields can be active together, and how many points have just these (None: continuous).

        Only the values that conditions tell apart are gone through, so a long range costs nothing.
        """
        shapes: list[tuple[Point, int | None]] = [({}, 1)]
        for name in self.order:
            longer: list[tuple[Point, int | None]] = []
            for shape, count in shapes:
                if not self.is_active(name, shape):
                    longer.append((shape, count))
                    continue
                for value, times in self._branches(name):
                    product = None if count is None or times is None else count * times
                    longer.append(({**shape, name: value}, product))
            shapes = longer
        return shapes

    def _branches(self, name: str) -> list[tuple[Value, int | None]]:
        """The values of `name` that conditions tell apart, each with how many values it stands for."""
        asked = (condition for when in self.conditions().values() for condition in when if condition.field == name)
        named = {identity(value): value for condition in asked for value in condition.values}
        size = self.domains[name].size
        if size is None:
            return [(_ANY_OTHER, None)]
        others = [(_ANY_OTHER, size - len(named))] if size > len(named) else []
        return [*((value, 1) for value in named.values()), *others]

    def _in_file_order(self, point: Point) -> Point:
        return {name: point[name] for name in self.domains if name in point}


def _parse_portfolio(raw: object) -> tuple[Point, ...]:
    if not isinstance(raw, list | tuple) or not all(isinstance(point, Mapping) for point in raw):
        example = "[{adapter.r: 16, training.learning_rate: 3.0e-4}]"
        raise SpaceError([f"{PORTFOLIO}: {shown(raw)} is no list of points: write {example}, or remove it"])
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
