"""Defines ranges of numbers, continuous and in steps. `search_spaces.domains` describes and parses them."""

from __future__ import annotations

import math
import random
from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Self

from search_spaces._forms import Domain
from search_spaces._values import Value, as_raw, is_number, number_problem, round_between, round_significant, shown
from search_spaces.errors import SpaceError

_MOST_STEPS = 10**15  # a float has about 15 decimal digits, so more multiples would not print as multiples


@dataclass(frozen=True)
class _Range(Domain):
    """Numbers between two bounds, both included."""

    SHAPE = "[low, high]"
    BOUNDS: ClassVar[tuple[str, ...]] = ("low", "high")
    LOG: ClassVar[bool] = False
    WHOLE: ClassVar[bool] = False
    low: float
    high: float

    @classmethod
    def from_raw(cls, raw: object) -> Self:
        if not isinstance(raw, list | tuple) or len(raw) != len(cls.BOUNDS):
            raise SpaceError([f"{cls.NAME} takes {cls.SHAPE} and got {shown(raw)}: write {cls.form()}"])
        return cls(*raw)

    def values(self) -> tuple[Value, ...] | None:
        return None

    def extremes(self) -> tuple[Value, ...]:
        return float(self.low), float(self.high)

    @property
    def size(self) -> int | None:
        return None

    def contains(self, value: object) -> bool:
        return is_number(value) and self.low <= value <= self.high

    def refusal(self, value: Value) -> str:
        between = f"{self._rule()} between {shown(self.low)} and {shown(self.high)}"
        return f"{shown(as_raw(value))} {between}: write such a number"

    def _rule(self) -> str:
        """Returns what a value must be beside being between the bounds, with its verb."""
        return "must lie"

    @property
    def is_ordered(self) -> bool:
        return True

    def position(self, value: Value) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        assert is_number(value), "a range holds numbers"
        inside = min(max(value, self.low), self.high)
        return (self._scaled(inside) - low) / (high - low) if high > low else 0.5

    def at(self, position: float) -> Value:
        low, high = self._scaled(self.low), self._scaled(self.high)
        there = low + position * (high - low)
        return self._nearest(math.exp(there) if self.LOG else there)

    def sample(self, rng: random.Random) -> Value:
        return self.at(rng.random())

    @abstractmethod
    def _nearest(self, number: float) -> Value:
        """Returns the value of the domain nearest to `number`, rounded to few digits."""

    def _scaled(self, number: float) -> float:
        return math.log(number) if self.LOG else number

    def _arguments(self) -> list[object]:
        return [getattr(self, name) for name in self.BOUNDS]

    def _problems(self) -> list[str]:
        given = dict(zip(self.BOUNDS, self._arguments(), strict=True))
        judged = {name: number_problem(value, whole=self.WHOLE) for name, value in given.items()}
        if any(judged.values()):
            return [f"{self.NAME}: {name} {problem}" for name, problem in judged.items() if problem]
        return [f"{self.NAME}: {problem}" for problem in self._bounds_problems()]

    def _bounds_problems(self) -> list[str]:
        problems = []
        if self.low > self.high:
            problems.append(f"low {self.low!r} is above high {self.high!r}: swap them")
        if self.LOG and self.low <= 0:
            linear = self.NAME.replace("log", "")
            problems.append(f"low {self.low!r} is not above 0, and the logarithm needs it: raise it or use {linear}")
        if not math.isfinite(float(self.high) - float(self.low)):
            problems.append(f"{self.low!r} to {self.high!r} is too wide for a float: narrow it")
        return problems


@dataclass(frozen=True)
class Uniform(_Range):
    """A float between the bounds."""

    NAME = "uniform"

    def _nearest(self, number: float) -> float:
        return round_between(number, self.low, self.high)


@dataclass(frozen=True)
class LogUniform(_Range):
    """A float between the bounds, uniform in its logarithm."""

    NAME = "loguniform"
    LOG = True

    def _nearest(self, number: float) -> float:
        return round_significant(number, self.low, self.high)


@dataclass(frozen=True)
class _Lattice(_Range):
    """The multiples of a step between two bounds that are multiples themselves.

    Ray Tune has the same rule for its quantised floats (ray 2.60, tune/search/sample.py, `Float.quantized`). Both ends
    can be drawn, and counting the steps from zero or from `low` gives the same values.
    """

    def sample(self, rng: random.Random) -> Value:
        return super().sample(rng) if self.LOG else self._at(rng.randint(*self._ends()))

    def position(self, value: Value) -> float:
        if self.LOG:
            return super().position(value)
        first, last = self._ends()
        assert is_number(value), "a range holds numbers"
        nearest = min(max(round(_exact(value) / self._step()), first), last)
        return (nearest - first + 0.5) / (last - first + 1)

    def at(self, position: float) -> Value:
        if self.LOG:
            return super().at(position)
        first, last = self._ends()
        return self._at(min(first + int(position * (last - first + 1)), last))

    def _nearest(self, number: float) -> Value:
        first, last = self._ends()
        return self._at(min(max(round(Fraction(number) / self._step()), first), last))

    def values(self) -> tuple[Value, ...]:
        first, last = self._ends()
        return tuple(self._at(count) for count in range(first, last + 1))

    def extremes(self) -> tuple[Value, ...]:
        first, last = self._ends()
        return self._at(first), self._at(last)

    @property
    def size(self) -> int:
        first, last = self._ends()
        return last - first + 1

    def contains(self, value: object) -> bool:
        if not super().contains(value) or (self.WHOLE and not isinstance(value, int)):
            return False
        return (_exact(value) / self._step()).denominator == 1

    @abstractmethod
    def _step(self) -> Fraction: ...

    def _ends(self) -> tuple[int, int]:
        return int(_exact(self.low) / self._step()), int(_exact(self.high) / self._step())

    def _at(self, count: int) -> int | float:
        # Rounds the exact decimal once, so that 3 steps of 0.1 are 0.3 and not 0.30000000000000004.
        exact = count * self._step()
        return int(exact) if self.WHOLE else float(exact)


@dataclass(frozen=True)
class RandInt(_Lattice):
    """An integer between the bounds."""

    NAME = "randint"
    WHOLE = True
    low: int
    high: int

    def _rule(self) -> str:
        return "must be a whole number"

    def _step(self) -> Fraction:
        return Fraction(1)


@dataclass(frozen=True)
class _Quantised(_Lattice):
    """The multiples of `q`."""

    SHAPE = "[low, high, q]"
    BOUNDS = ("low", "high", "q")
    q: float

    def _rule(self) -> str:
        return f"must be a multiple of {shown(self.q)}"

    def _step(self) -> Fraction:
        return _exact(self.q)

    def _bounds_problems(self) -> list[str]:
        problems = super()._bounds_problems()
        if self.q <= 0:
            return [*problems, f"q {self.q!r} is not above 0: give the step between two values"]
        counts = {name: _exact(bound) / self._step() for name, bound in (("low", self.low), ("high", self.high))}
        if not self.WHOLE and max(map(abs, counts.values())) > _MOST_STEPS:
            return [
                *problems,
                f"q {self.q!r} is too fine for floats of this size: raise it, or use a range without q",
            ]
        for name, count in counts.items():
            if count.denominator != 1:
                nearest = self._at(round(count))
                problems.append(f"{name} {getattr(self, name)!r} is not a multiple of q {self.q!r}: write {nearest!r}")
        return problems


@dataclass(frozen=True)
class QUniform(_Quantised):
    """A multiple of `q`, all equally likely."""

    NAME = "quniform"


@dataclass(frozen=True)
class QLogUniform(_Quantised):
    """The multiple of `q` nearest to a float that is uniform in its logarithm."""

    NAME = "qloguniform"
    LOG = True


@dataclass(frozen=True)
class QRandInt(_Quantised):
    """An integer that is a multiple of `q`, all equally likely."""

    NAME = "qrandint"
    WHOLE = True
    low: int
    high: int
    q: int


def _exact(number: object) -> Fraction:
    """Returns the printed decimal of a number as a fraction: 0.1 is 1/10."""
    return Fraction(str(number))
