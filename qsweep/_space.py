"""The domains of a search space, in the form of the sweep file (`search_spaces.domains` checks and draws them).

Each function takes `prior`, the value that is expected to do best, and `when`, {FIELD: value or [values]}: the field is
searched only where FIELD has one of these values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Domain = dict[str, Any]


def choice(values: Iterable[Any], **beside: Any) -> Domain:
    """One of the values."""
    return {"choice": list(values), **beside}


def grid(values: Iterable[Any], **beside: Any) -> Domain:
    """One of the values; random search takes every combination of the grids in turn."""
    return {"grid": list(values), **beside}


def uniform(low: float, high: float, **beside: Any) -> Domain:
    """A float, both ends included."""
    return {"uniform": [low, high], **beside}


def loguniform(low: float, high: float, **beside: Any) -> Domain:
    """A float, uniform in its logarithm."""
    return {"loguniform": [low, high], **beside}


def randint(low: int, high: int, **beside: Any) -> Domain:
    """An integer, both ends included."""
    return {"randint": [low, high], **beside}


def quniform(low: float, high: float, q: float, **beside: Any) -> Domain:
    """A multiple of q; both ends are multiples of q."""
    return {"quniform": [low, high, q], **beside}


def qloguniform(low: float, high: float, q: float, **beside: Any) -> Domain:
    """A multiple of q, uniform in its logarithm."""
    return {"qloguniform": [low, high, q], **beside}


def qrandint(low: int, high: int, q: int, **beside: Any) -> Domain:
    """An integer that is a multiple of q; both ends are multiples of q."""
    return {"qrandint": [low, high, q], **beside}
