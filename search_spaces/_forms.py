"""Defines the base of every domain, and the lists of values. `search_spaces.domains` describes and parses them."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Self

from search_spaces._conditions import Condition, raw_when, values_problems
from search_spaces._values import Value, as_raw, as_value, identity, is_number, shown
from search_spaces.errors import SpaceError


@dataclass(frozen=True)
class Domain(ABC):
    """The values that one field may take. Raises SpaceError, without the name of the field, for invalid arguments."""

    NAME: ClassVar[str]
    SHAPE: ClassVar[str]
    when: tuple[Condition, ...] = field(default=(), kw_only=True)
    prior: Value | None = field(default=None, kw_only=True)
    """The value that is expected to give the best result, before anything is measured."""

    def __post_init__(self) -> None:
        problems = self._problems()
        if not problems and self.prior is not None and not self.contains(self.prior):
            problems = [f"prior {self.refusal(self.prior)}, or remove it"]
        if problems:
            raise SpaceError(problems)

    @classmethod
    def form(cls) -> str:
        """Returns the YAML form, for messages."""
        return f"{{{cls.NAME}: {cls.SHAPE}}}"

    def refusal(self, value: Value) -> str:
        """Returns the words that refuse a value outside the domain: the value, what it may be, and what to do."""
        return f"{shown(as_raw(value))} is not a value of {shown(self.to_raw()[self.NAME])}: write one of them"

    @classmethod
    @abstractmethod
    def from_raw(cls, raw: object) -> Self:
        """Reads the domain from the value after its name in YAML. Raises SpaceError."""

    @abstractmethod
    def sample(self, rng: random.Random) -> Value:
        """Draws a value of the domain, with `rng` alone."""

    @abstractmethod
    def values(self) -> tuple[Value, ...] | None:
        """Returns every value, in order; None for a continuous range. Check `size` first: the list may be long."""

    @abstractmethod
    def extremes(self) -> tuple[Value, ...]:
        """Returns the values to check a domain with: both ends of a range, or every value of a list."""

    @property
    @abstractmethod
    def size(self) -> int | None:
        """Returns the number of values; None for a continuous range."""

    @abstractmethod
    def contains(self, value: object) -> bool:
        """Tells whether `value` is a value of the domain."""

    @property
    @abstractmethod
    def is_ordered(self) -> bool:
        """Tells whether the values are numbers, which have an order and distances."""

    @abstractmethod
    def position(self, value: Value) -> float:
        """Returns the place of a value between the lowest (0) and the highest (1). The domain must be ordered.

        A number outside the domain has the place of the nearest value of the domain.
        """

    @abstractmethod
    def at(self, position: float) -> Value:
        """Returns the value at a position in [0, 1]. `sample` draws equal parts of [0, 1] with equal probability."""

    def to_raw(self) -> dict[str, object]:
        """Returns the YAML form as plain data, which parses to an equal domain."""
        raw: dict[str, object] = {self.NAME: self._arguments()}
        if self.prior is not None:
            raw["prior"] = as_raw(self.prior)
        if self.when:
            raw["when"] = raw_when(self.when)
        return raw

    @abstractmethod
    def _arguments(self) -> list[object]: ...

    @abstractmethod
    def _problems(self) -> list[str]: ...


@dataclass(frozen=True)
class _Options(Domain):
    """A list of values."""

    SHAPE = "[value, value]"
    options: tuple[Value, ...]

    @classmethod
    def from_raw(cls, raw: object) -> Self:
        if not isinstance(raw, list | tuple):
            given = shown(raw)
            raise SpaceError([f"{cls.NAME} takes a list, and {given} is not a list: write {{{cls.NAME}: [{given}]}}"])
        return cls(tuple(as_value(item) for item in raw))

    def sample(self, rng: random.Random) -> Value:
        return rng.choice(self.options)

    def values(self) -> tuple[Value, ...]:
        return self.options

    def extremes(self) -> tuple[Value, ...]:
        return self.options

    @property
    def size(self) -> int:
        return len(self.options)

    def contains(self, value: object) -> bool:
        return any(identity(value) == identity(option) for option in self.options)

    @property
    def is_ordered(self) -> bool:
        return all(is_number(option) for option in self.options)

    def position(self, value: Value) -> float:
        numbers = self._numbers()
        assert is_number(value), "words have no position"
        nearest = min(range(len(numbers)), key=lambda place: abs(numbers[place] - value))
        return (nearest + 0.5) / len(numbers)

    def at(self, position: float) -> Value:
        numbers = self._numbers()
        return numbers[min(int(position * len(numbers)), len(numbers) - 1)]

    def _numbers(self) -> list[float]:
        return sorted(option for option in self.options if is_number(option))

    def _arguments(self) -> list[object]:
        return [as_raw(option) for option in self.options]

    def _problems(self) -> list[str]:
        return [f"{self.NAME}: {problem}" for problem in values_problems(self.options)]


@dataclass(frozen=True)
class Choice(_Options):
    """One of the listed values, all equally likely."""

    NAME = "choice"


@dataclass(frozen=True)
class Grid(_Options):
    """One of the listed values. A sweep goes through all combinations of its grids, so each comes equally often."""

    NAME = "grid"
