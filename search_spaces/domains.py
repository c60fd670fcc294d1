"""Defines and reads the domain of a field: the values that it may take, in one of these YAML forms.

| form                              | takes                                                                      |
|-----------------------------------|----------------------------------------------------------------------------|
| `{choice: [a, b]}`                | one of the listed values; a list in it is an explicit list of words        |
| `{grid: [a, b]}`                  | the same, and random search takes every combination of the grids in turn   |
| `{uniform: [low, high]}`          | a float, both ends included, rounded to a thousandth of the range or finer |
| `{loguniform: [low, high]}`       | a float, uniform in its logarithm, rounded to 3 significant digits         |
| `{randint: [low, high]}`          | an integer, both ends included                                             |
| `{quniform: [low, high, q]}`      | a multiple of q, both ends included and themselves multiples of q          |
| `{qloguniform: [low, high, q]}`   | likewise, the nearest to a float that is uniform in its logarithm          |
| `{qrandint: [low, high, q]}`      | likewise, integers                                                         |

Drawn floats are rounded so that they read well as logged parameters (0.000213, not 0.00021344987562341); a point
that a person or another searcher brings may hold any float within the bounds.

With `when: {FIELD: value or [values]}` beside the form, a field is searched only in points where FIELD has one of these
values; in other points it keeps the base's value. Conditions on several fields must all be true. Write a list of words
as a list inside the list: `when: {adapter.target_modules: [[q_proj, v_proj]]}`.

`prior: VALUE` says which value is expected to do best: `{loguniform: [2.0e-5, 2.0e-3], prior: 3.0e-4}`. The searcher
`prior` begins there; the other searchers ignore it.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from search_spaces.values import (
    SpaceError,
    Value,
    as_raw,
    as_value,
    did_you_mean,
    identity,
    is_number,
    number_problem,
    repeated,
    shown,
    value_problem,
)

__all__ = ["FORMS", "Condition", "Domain", "Value", "identity", "parse"]

FORMS = {
    "choice": "[value, value]",
    "grid": "[value, value]",
    "uniform": "[low, high]",
    "loguniform": "[low, high]",
    "randint": "[low, high]",
    "quniform": "[low, high, q]",
    "qloguniform": "[low, high, q]",
    "qrandint": "[low, high, q]",
}
"""Name of a form -> its arguments. A name says what it draws: log, int, and q for multiples."""
_BESIDE = ("when", "prior")
_DIGITS = 3
"""Significant digits of drawn floats, or more if the range is narrow."""
_MOST_STEPS = 10**15  # a float has about 15 decimal digits, so more multiples would not print as multiples


@dataclass(frozen=True)
class Condition:
    """The condition that `field` has one of `values` in the same point."""

    field: str
    values: tuple[Value, ...]

    def holds(self, value: Value) -> bool:
        """Tells whether `value` is one of the values of the condition."""
        return _is_among(value, self.values)


@dataclass(frozen=True)
class Domain(ABC):
    """The values that one field may take, as `parse` reads them."""

    form: str
    """Name of the form in the YAML file."""
    when: tuple[Condition, ...] = field(default=(), kw_only=True)
    prior: Value | None = field(default=None, kw_only=True)
    """The value that is expected to give the best result, before anything is measured."""

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

    def refusal(self, value: Value) -> str:
        """Returns the words that refuse a value outside the domain: the value, what it may be, and what to do."""
        return f"{shown(value)} is not a value of {shown({self.form: self.arguments()})}: write one of its values"

    @property
    def is_ordered(self) -> bool:
        """Tells whether the values are numbers, which have an order and distances."""
        return True

    @property
    def is_log(self) -> bool:
        """Tells whether distances are those of the logarithm."""
        return "log" in self.form

    @abstractmethod
    def position(self, value: Value) -> float:
        """Returns the place of a value between the lowest (0) and the highest (1). The domain must be ordered.

        A number outside the domain has the place of the nearest value of the domain.
        """

    @abstractmethod
    def at(self, position: float) -> Value:
        """Returns the value at a position in [0, 1]. `sample` draws equal parts of [0, 1] with equal probability."""

    @abstractmethod
    def arguments(self) -> list[object]:
        """Returns the arguments of the form, as in YAML."""

    def to_raw(self) -> dict[str, object]:
        """Returns the YAML form as plain data, which parses to an equal domain."""
        raw: dict[str, object] = {self.form: self.arguments()}
        if self.prior is not None:
            raw["prior"] = as_raw(self.prior)
        if self.when:
            raw["when"] = {condition.field: _raw_values(condition.values) for condition in self.when}
        return raw


@dataclass(frozen=True)
class _Options(Domain):
    """A list of values, all equally likely."""

    options: tuple[Value, ...]

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
        return _is_among(value, self.options)

    @property
    def is_ordered(self) -> bool:
        return all(map(is_number, self.options))

    def position(self, value: Value) -> float:
        numbers = self._numbers()
        assert is_number(value), "words have no position"
        nearest = min(range(len(numbers)), key=lambda place: abs(numbers[place] - value))
        return (nearest + 0.5) / len(numbers)

    def at(self, position: float) -> Value:
        numbers = self._numbers()
        return numbers[min(int(position * len(numbers)), len(numbers) - 1)]

    def arguments(self) -> list[object]:
        return [as_raw(option) for option in self.options]

    def _numbers(self) -> list[float]:
        return sorted(option for option in self.options if is_number(option))


@dataclass(frozen=True)
class _Range(Domain):
    """The floats between two bounds, both included."""

    low: float
    high: float
    q: float | None = None
    """The step between two values; None for a continuous range, and for `randint`, whose step is 1."""

    def sample(self, rng: random.Random) -> Value:
        return self.at(rng.random())

    def values(self) -> tuple[Value, ...] | None:
        return None

    def extremes(self) -> tuple[Value, ...]:
        return float(self.low), float(self.high)

    @property
    def size(self) -> int | None:
        return None

    def contains(self, value: object) -> bool:
        return is_number(value) and self.low <= value <= self.high

    def position(self, value: Value) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        assert is_number(value), "a range holds numbers"
        inside = min(max(value, self.low), self.high)
        return (self._scaled(inside) - low) / (high - low) if high > low else 0.5

    def at(self, position: float) -> Value:
        low, high = self._scaled(self.low), self._scaled(self.high)
        there = low + position * (high - low)
        return self._nearest(math.exp(there) if self.is_log else there)

    def arguments(self) -> list[object]:
        return [self.low, self.high, *([] if self.q is None else [self.q])]

    def _scaled(self, number: float) -> float:
        return math.log(number) if self.is_log else number

    def _nearest(self, number: float) -> Value:
        """Returns the value of the domain nearest to `number`, rounded to few digits."""
        width = self._scaled(self.high) - self._scaled(self.low)
        narrow = math.ceil(-math.log10(width)) if width > 0 else 0
        if self.is_log:
            rounded = float(f"{number:.{_DIGITS - 1 + max(0, narrow)}e}")
        else:
            rounded = round(number, max(0, _DIGITS + narrow if width > 0 else 0))
        return float(min(max(rounded, self.low), self.high)) + 0.0  # + 0.0 turns -0.0 into 0.0


@dataclass(frozen=True)
class _Multiples(_Range):
    """The multiples of a step between two bounds that are multiples themselves; integers if the form says so.

    Ray Tune has the same rule for its quantised floats (ray 2.60, tune/search/sample.py, `Float.quantized`). Both ends
    can be drawn, and counting the steps from zero or from `low` gives the same values.
    """

    def sample(self, rng: random.Random) -> Value:
        counts = self._counts
        return super().sample(rng) if self.is_log else self._multiple(rng.randint(counts.start, counts.stop - 1))

    def values(self) -> tuple[Value, ...]:
        return tuple(map(self._multiple, self._counts))

    def extremes(self) -> tuple[Value, ...]:
        return self._nearest(self.low), self._nearest(self.high)

    @property
    def size(self) -> int:
        return self._counts.stop - self._counts.start  # len() takes no more than 2**63

    def contains(self, value: object) -> bool:
        if not super().contains(value) or ("int" in self.form and not isinstance(value, int)):
            return False
        return (_exact(value) / self._step).denominator == 1

    def position(self, value: Value) -> float:
        if self.is_log:
            return super().position(value)
        place = round(_exact(value) / self._step) - self._counts.start
        return (min(max(place, 0), self.size - 1) + 0.5) / self.size

    def at(self, position: float) -> Value:
        if self.is_log:
            return super().at(position)
        return self._multiple(self._counts[min(int(position * self.size), self.size - 1)])

    def _nearest(self, number: float) -> Value:
        count = round(Fraction(number) / self._step)
        return self._multiple(min(max(count, self._counts.start), self._counts.stop - 1))

    @property
    def _step(self) -> Fraction:
        return _exact(self.q or 1)

    @property
    def _counts(self) -> range:
        """Returns how many steps the values are from zero."""
        return range(int(_exact(self.low) / self._step), int(_exact(self.high) / self._step) + 1)

    def _multiple(self, count: int) -> int | float:
        # Rounds the exact decimal once, so that 3 steps of 0.1 are 0.3 and not 0.30000000000000004.
        exact = count * self._step
        return int(exact) if "int" in self.form else float(exact)


def parse(name: str, raw: object) -> Domain:
    """Reads the domain of a field from its YAML value `raw`.

    Args:
        name: the searched field, for messages only.
        raw: a mapping with one form of the module's table, and optionally `when` and `prior`.

    Raises:
        SpaceError: with a line for every problem, each starting with `name`.
    """
    problems = _mapping_problems(raw)
    if problems or not isinstance(raw, Mapping):
        raise SpaceError([f"{name}: {problem}" for problem in problems])
    (form,) = (form for form in FORMS if form in raw)
    domain: Domain | None = None
    if not (problems := _argument_problems(form, raw[form])):
        domain = _domain(form, raw)
        problems += _prior_problems(domain) if "prior" in raw else []
    if "when" in raw:
        problems += _when_problems(raw["when"])
    if domain is None or problems:
        raise SpaceError([f"{name}: {problem}" for problem in problems])
    return domain


def written(form: str) -> str:
    """Returns the YAML form, for messages."""
    return f"{{{form}: {FORMS[form]}}}"


def _domain(form: str, raw: Mapping[object, Any]) -> Domain:
    """Builds the domain from YAML whose form has no problem; `when` and `prior` are still to be checked."""
    when = raw.get("when")
    conditions = when.items() if isinstance(when, Mapping) else ()
    beside: dict[str, Any] = {
        "when": tuple(Condition(str(name), tuple(map(as_value, _listed(values)))) for name, values in conditions),
        "prior": as_value(raw.get("prior")),
    }
    if form in ("choice", "grid"):
        return _Options(form, tuple(map(as_value, raw[form])), **beside)
    is_continuous = form in ("uniform", "loguniform")
    return (_Range if is_continuous else _Multiples)(form, *raw[form], **beside)


def _mapping_problems(raw: object) -> list[str]:
    """Lists the problems of `raw`: it is no mapping, names no form or several forms, or has other keys."""
    if isinstance(raw, list | tuple):
        return [f"a list is not a domain: write {{choice: {shown(raw)}}}"]
    if raw is None:
        return ["nothing given: write {choice: [8, 16]}, for example"]
    if not isinstance(raw, Mapping):
        way_out = f"write {{choice: [{shown(raw)}]}}, or set it in the sweep file and leave it out here"
        return [f"{shown(raw)} alone is not a domain: {way_out}"]
    named = [form for form in FORMS if form in raw]
    others = [str(key) for key in raw if key not in FORMS and key not in _BESIDE]
    if not named:
        told = f"unknown domain {others[0]!r}{did_you_mean(others[0], tuple(FORMS))}" if others else "no domain given:"
        return [f"{told} write one of {', '.join(map(written, FORMS))}"]
    problems = [f"unknown key {key!r}{did_you_mean(key, _BESIDE)} remove it" for key in others]
    if len(named) > 1:
        problems.append(f"{' and '.join(named)} are {len(named)} domains for one field: keep one")
    return problems


def _argument_problems(form: str, given: object) -> list[str]:
    names = FORMS[form].strip("[]").split(", ")
    if form in ("choice", "grid"):
        if isinstance(given, list | tuple):
            return [f"{form}: {problem}" for problem in _values_problems(given)]
        return [f"{form} takes a list, and {shown(given)} is not a list: write {{{form}: [{shown(given)}]}}"]
    if not isinstance(given, list | tuple) or len(given) != len(names):
        return [f"{form} takes {FORMS[form]} and got {shown(given)}: write {written(form)}"]
    judged = {name: number_problem(value, whole="int" in form) for name, value in zip(names, given, strict=True)}
    problems = [f"{name} {problem}" for name, problem in judged.items() if problem] or _bounds_problems(form, *given)
    return [f"{form}: {problem}" for problem in problems]


def _bounds_problems(form: str, low: float, high: float, q: float | None = None) -> list[str]:
    problems = []
    if low > high:
        problems.append(f"low {low!r} is above high {high!r}: swap them")
    if "log" in form and low <= 0:
        linear = form.replace("log", "")
        problems.append(f"low {low!r} is not above 0, and the logarithm needs it: raise it or use {linear}")
    if not math.isfinite(float(high) - float(low)):
        problems.append(f"{low!r} to {high!r} is too wide for a float: narrow it")
    if q is None:
        return problems
    if q <= 0:
        return [*problems, f"q {q!r} is not above 0: give the step between two values"]
    counts = {name: _exact(bound) / _exact(q) for name, bound in (("low", low), ("high", high))}
    if "int" not in form and max(map(abs, counts.values())) > _MOST_STEPS:
        return [*problems, f"q {q!r} is too fine for floats of this size: raise it, or use a range without q"]
    for name, count in counts.items():
        if count.denominator != 1:
            nearest = round(count) * _exact(q)
            number = int(nearest) if "int" in form else float(nearest)
            given = low if name == "low" else high
            problems.append(f"{name} {given!r} is not a multiple of q {q!r}: write {number!r}")
    return problems


def _when_problems(raw: object) -> list[str]:
    if not isinstance(raw, Mapping) or not raw:
        return [f"when takes {{FIELD: value}} and got {shown(raw)}: name the field and its values, or remove it"]
    return [f"when {name}: {problem}" for name, values in raw.items() for problem in _values_problems(_listed(values))]


def _prior_problems(domain: Domain) -> list[str]:
    if problem := value_problem(domain.prior):
        return [f"prior: {problem}"]
    assert domain.prior is not None
    return [] if domain.contains(domain.prior) else [f"prior {domain.refusal(domain.prior)}, or remove it"]


def _values_problems(given: Sequence[object]) -> list[str]:
    if not given:
        return ["the list is empty: name at least one value"]
    values = list(map(as_value, given))
    problems = [problem for value in values if (problem := value_problem(value))]
    return problems or [f"{shown(value)} is listed twice: keep one" for value in repeated(values)]


def _listed(values: object) -> Sequence[object]:
    return values if isinstance(values, list | tuple) else [values]


def _raw_values(values: tuple[Value, ...]) -> object:
    if len(values) == 1 and not isinstance(values[0], tuple):
        return values[0]
    return [as_raw(value) for value in values]


def _is_among(value: object, values: Sequence[Value]) -> bool:
    return any(identity(value) == identity(each) for each in values)


def _exact(number: object) -> Fraction:
    """Returns the printed decimal of a number as a fraction: 0.1 is 1/10."""
    return Fraction(str(number))
