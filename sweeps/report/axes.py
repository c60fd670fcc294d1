"""The axis of a searched field in the charts: its kind, its ends, and where a value lies on the axis. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from search_spaces.domains import Domain
from sweeps.config.points import Scalar, word
from sweeps.report.trial_tables import value_text

UNSET = "not searched"
"""Mark of trials whose points lack the field. They train with its value in the sweep file."""
UNSET_PLACE = -0.12
"""Place of these trials, as a share of an axis of numbers: below its low end."""
MOST_OPTIONS = 12
"""Most numbers of a list that are shown as words. A longer list has an axis of numbers."""
GAP = 0.25
"""A part of a range without a trial is reported as untried if it is a larger share of the range than this."""
LOG_SPAN = 100.0
"""An axis is logarithmic, whatever the domain, if its highest number is at least this many times its lowest."""


@dataclass(frozen=True)
class Axis:
    """One axis, of numbers or of words."""

    name: str
    """Short name of a field, as in params, or name of an outcome."""
    low: float
    high: float
    """Ends of the axis in plotly's units: exponents of ten if the axis is logarithmic, else numbers."""
    is_log: bool = False
    options: tuple[Scalar | None, ...] = ()
    """The words, at 0, 1, 2 and so on; None stands for trials without a value. Empty on an axis of numbers."""
    has_unset: bool = False
    """Whether an axis of numbers has trials without a value."""

    @property
    def title(self) -> str:
        """Returns the name, with the scale if it is logarithmic."""
        return f"{self.name} (log scale)" if self.is_log else self.name

    def at(self, value: Scalar | None) -> float:
        """Returns the place of a value in plotly's units. Trials without a value lie below the numbers."""
        if self.options:
            return float(self.options.index(value))
        if value is None or isinstance(value, str):
            return self.low + UNSET_PLACE * (self.high - self.low)
        return math.log10(value) if self.is_log else float(value)

    def place(self, value: Scalar | None) -> float:
        """Returns the place of a value as a share of the way from the low end to the high end."""
        return (self.at(value) - self.low) / (self.high - self.low)

    def layout(self, characters: int = 24) -> dict[str, Any]:
        """Returns the axis for plotly, which chooses the ticks of numbers. Words are cut to `characters`, 8 or more."""
        margin = 0.0 if self.options else 0.05 * (self.high - self.low)
        ends = [(self.at(None) if self.has_unset else self.low) - margin, self.high + margin]
        if not self.options:
            decades = self.high - self.low if self.is_log else 0.0
            marks = {"dtick": math.ceil(decades / 8)} if decades > 1.5 else {}  # powers of ten alone
            return {"type": "log" if self.is_log else "linear", "range": ends, "exponentformat": "e", **marks}
        texts = [UNSET if each is None else value_text(each) for each in self.options]
        most = max(characters, 8)
        cut = [escape(text if len(text) <= most else text[: most - 1] + "…") for text in texts]
        # Slanted words end below their ticks: plotly hides a word that leaves the chart, as one to the right would.
        return {"range": ends, "tickvals": list(range(len(cut))), "ticktext": cut, "autotickangles": [0, -60, -90]}


def axis(name: str, domain: Domain, values: Iterable[Scalar | None]) -> Axis:
    """Returns the axis of a field. A trial's value is None if its point lacks the field."""
    values = list(dict.fromkeys(values))
    has_unset, is_list = None in values, _is_list(domain)
    possible = (domain.values() or ()) if is_list else domain.extremes()
    options = list(dict.fromkeys([*map(word, possible), *(value for value in values if value is not None)]))
    numbers = sorted(float(each) for each in options if not isinstance(each, bool | str))
    if len(numbers) < len(options) or (is_list and len(options) <= MOST_OPTIONS):
        ordered = sorted(options, key=float) if len(numbers) == len(options) else options
        found = (*ordered, None) if has_unset else tuple(ordered)
        return Axis(name, -0.5, len(found) - 0.5, options=found)
    low, high = numbers[0], numbers[-1]
    is_log = low > 0 and (domain.is_log or high >= LOG_SPAN * low)
    low, high = ends(math.log10(low), math.log10(high)) if is_log else ends(low, high)
    return Axis(name, low, high, is_log, has_unset=has_unset)


def untried(domain: Domain, values: Iterable[Scalar | None]) -> str:
    """Names the values of a list, or the large parts of a range, that no trial has; empty if there are none."""
    tried = [value for value in values if value is not None]
    if _is_list(domain):
        return ", ".join(value_text(each) for each in map(word, domain.values() or ()) if each not in tried)
    marks = [0.0, *sorted(domain.position(each) for each in tried if not isinstance(each, str)), 1.0]
    gaps = [(low, high) for low, high in pairwise(marks) if high - low > GAP]
    return ", ".join(" to ".join(value_text(word(domain.at(end))) for end in gap) for gap in gaps)


def _is_list(domain: Domain) -> bool:
    return domain.size is not None and (domain.size <= MOST_OPTIONS or not domain.is_ordered)


def ends(low: float, high: float) -> tuple[float, float]:
    """Returns the ends of an axis; equal ends are moved apart."""
    return (low, high) if high > low else (low - (0.05 * abs(low) or 1.0), low + (0.05 * abs(low) or 1.0))


def without_outliers(values: Iterable[float]) -> list[float]:
    """Returns the finite values in order, without those more than 6 interquartile ranges beyond the quartiles."""
    found = sorted(value for value in values if math.isfinite(value))
    if not found:
        return []
    lower, upper = found[len(found) // 4], found[(3 * len(found)) // 4]
    reach = 6 * (upper - lower) or math.inf
    return [value for value in found if lower - reach <= value <= upper + reach]
