"""The axes of charts over searched fields: where a value lies between 0 and 1, and which values are marked. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from search_spaces.domains import Domain
from sweeps.config.points import Scalar, word
from sweeps.report.trial_tables import value_text

Kind = Literal["log", "linear", "words"]
UNSET = "not searched"
"""Marks trials in whose point the field is not: it has its value of the sweep file."""
UNSET_PLACE = -0.12
"""Where they lie on an axis of numbers: below its lowest value."""
MOST_OPTIONS = 12
"""Of a list of numbers with more values, an axis of numbers is made."""
MOST_TICKS = 7
LOG_NAMES = ("learning_rate", "weight_decay")
LOG_SPAN = 8.0
"""These fields get a logarithmic axis when their highest value is so many times the lowest."""
MOST_CHARACTERS = 24


@dataclass(frozen=True)
class Axis:
    """One axis."""

    name: str
    """The field's short name, as params have it."""
    kind: Kind
    low: float = 0.0
    high: float = 1.0
    """Its ends, where it is one of numbers."""
    options: tuple[Scalar, ...] = ()
    """Its values in order, where it is one of words or of few numbers."""
    has_unset: bool = False
    """Whether there are trials without a value."""

    @property
    def title(self) -> str:
        """The name, and the scale where it is not the usual one."""
        return f"{self.name} (log scale)" if self.kind == "log" else self.name

    def place(self, value: Scalar | None) -> float:
        """Where the value lies, between 0 and 1; trials without one lie below."""
        if self.kind == "words":
            places = len(self.options) + self.has_unset
            at = len(self.options) if value is None else self.options.index(value)
            return (at + 0.5) / places
        if value is None or isinstance(value, str):
            return UNSET_PLACE
        return self._between(float(value))

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """(place, label) of each mark: true values."""
        if self.kind == "words":
            shown: list[Scalar | None] = [*self.options, *([None] if self.has_unset else [])]
            return tuple((self.place(value), _label(value)) for value in shown)
        if self.kind == "log":
            marks = [(mark, value_text(mark)) for mark in log_marks(self.low, self.high)]
        else:
            marks = linear_labels(linear_marks(self.low, self.high))
        unset = [(UNSET_PLACE, UNSET)] if self.has_unset else []
        return (*unset, *((self._between(mark), text) for mark, text in marks))

    def _between(self, value: float) -> float:
        if not self.high > self.low:
            return 0.5
        if self.kind == "log":
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def axis(name: str, domain: Domain | None, values: Iterable[Scalar | None]) -> Axis:
    """The axis of a field.

    Args:
        domain: what is searched; None where that is not known.
        values: those of the trials; None of one in whose point the field is not searched.
    """
    values = list(values)
    told = [value for value in values if value is not None]
    has_unset = len(told) < len(values)
    listed = [word(value) for value in (domain.values() or ())] if domain is not None and _is_short(domain) else []
    options = list(dict.fromkeys([*listed, *told]))
    numbers = [float(each) for each in options if not isinstance(each, bool | str)]
    if len(numbers) < len(options) or (len(options) <= MOST_OPTIONS and (listed or domain is None)) or not options:
        return Axis(name, "words", options=_ordered(options), has_unset=has_unset)
    ends = [] if domain is None or listed else [float(str(end)) for end in domain.extremes()]
    low, high = min(*numbers, *ends, math.inf), max(*numbers, *ends, -math.inf)
    is_log = (domain is not None and domain.is_log) or (name in LOG_NAMES and high >= LOG_SPAN * low)
    return Axis(name, "log" if is_log and low > 0 else "linear", low, high, has_unset=has_unset)


def _is_short(domain: Domain) -> bool:
    """Whether it has few values, or lists them."""
    return domain.size is not None and (domain.size <= MOST_OPTIONS or not domain.is_ordered)


def _ordered(options: Sequence[Scalar]) -> tuple[Scalar, ...]:
    """Numbers by size; words as they come."""
    if all(not isinstance(each, bool | str) for each in options):
        return tuple(sorted(options, key=float))
    return tuple(options)


def _label(value: Scalar | None) -> str:
    text = UNSET if value is None else value_text(value)
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def log_marks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two ends, or fewer of them; both ends where there are not two."""
    for factors in ((1, 2, 5), (1, 3), (1,)):
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        marks = [float(f"{factor}e{power}") for power in range(first, last + 1) for factor in factors]
        inside = [mark for mark in marks if low * (1 - 1e-9) <= mark <= high * (1 + 1e-9)]
        if len(inside) <= MOST_TICKS:
            break
    every = math.ceil(len(inside) / MOST_TICKS) or 1
    return inside[::every] if len(inside) > 1 else sorted({low, high})


def linear_marks(low: float, high: float) -> list[float]:
    """Round numbers between two ends; both ends where there are not two."""
    if not high > low:
        return [low]
    size = 10.0 ** math.floor(math.log10((high - low) / (MOST_TICKS - 1)))
    step = next(size * factor for factor in (1, 2, 5, 10) if (high - low) / (size * factor) <= MOST_TICKS - 1)
    marks = [
        round(count * step, 12) for count in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]
    return marks if len(marks) > 1 else [low, high]


def linear_labels(marks: Sequence[float]) -> list[tuple[float, str]]:
    """Each mark with its label: as many digits as tell the marks apart."""
    step = marks[1] - marks[0] if len(marks) > 1 else 0.0
    if not 1e-6 < step < 1e15:
        return [(mark, f"{mark:.6g}") for mark in marks]
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    return [(mark, f"{mark:,.{digits}f}") for mark in marks]


def readable(values: Iterable[float]) -> tuple[float, float] | None:
    """The range that most of the values lie in: values that are far above or below them are left out.

    Returns:
        None where no value is finite. Ends that differ, with a margin.
    """
    found = sorted(value for value in values if math.isfinite(value))
    if not found:
        return None
    lower, upper = found[len(found) // 4], found[(3 * len(found)) // 4]
    reach = 6 * (upper - lower) or math.inf
    inside = [value for value in found if lower - reach <= value <= upper + reach]
    margin = 0.05 * (inside[-1] - inside[0]) or 0.05 * abs(inside[0]) or 1.0
    return inside[0] - margin, inside[-1] + margin
