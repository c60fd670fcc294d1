"""The domains of a search space, in the form of the sweep file (`search_spaces.domains` checks and draws them).

Each function takes `prior`, the value that is expected to do best, and `when`, {FIELD: value or [values]}: the field is
searched only where FIELD has one of these values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Domain = dict[str, Any]


def choice(values: Iterable[Any], **beside: Any) -> Domain:
    """Makes the domain of the given values."""
    return {"choice": list(values), **beside}


def grid(values: Iterable[Any], **beside: Any) -> Domain:
    """Makes the domain of the given values; random search takes every combination of the grids in turn."""
    return {"grid": list(values), **beside}


def uniform(low: float, high: float, **beside: Any) -> Domain:
    """Makes the domain of the floats from low to high, with both ends."""
    return {"uniform": [low, high], **beside}


def loguniform(low: float, high: float, **beside: Any) -> Domain:
    """Makes the domain of the floats from low to high, uniform in the logarithm."""
    return {"loguniform": [low, high], **beside}


def randint(low: int, high: int, **beside: Any) -> Domain:
    """Makes the domain of the integers from low to high, with both ends."""
    return {"randint": [low, high], **beside}


def quniform(low: float, high: float, q: float, **beside: Any) -> Domain:
    """Makes the domain of the multiples of q from low to high, which are multiples of q too."""
    return {"quniform": [low, high, q], **beside}


def qloguniform(low: float, high: float, q: float, **beside: Any) -> Domain:
    """Makes the domain of the multiples of q from low to high, uniform in the logarithm."""
    return {"qloguniform": [low, high, q], **beside}


def qrandint(low: int, high: int, q: int, **beside: Any) -> Domain:
    """Makes the domain of the integer multiples of q from low to high, which are multiples of q too."""
    return {"qrandint": [low, high, q], **beside}
