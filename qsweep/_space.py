"""The domains of a search space, in the form of the sweep file (`search_spaces.domains` checks and draws them).

Each function takes `prior`, the value that is expected to do best, and `when`, {FIELD: value or [values]}: the field is
searched only where FIELD has one of these values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec

from sweeps.errors import ConfigError

Domain = dict[str, Any]
P = ParamSpec("P")


def _domain(function: Callable[P, Domain]) -> Callable[P, Domain]:
    """Wraps a function, so that wrong arguments raise ConfigError with the right form, as all mistakes do."""
    names = [*signature(function).parameters][:-1]
    form = f"qs.{function.__name__}({'[8, 16]' if names == ['values'] else ', '.join(names)})"

    @wraps(function)
    def called(*given: P.args, **beside: P.kwargs) -> Domain:
        try:
            return function(*given, **beside)
        except TypeError as error:
            raise ConfigError([f"{error}: write {form}"]) from None

    return called


@_domain
def choice(values: Iterable[Any], **beside: Any) -> Domain:
    """Makes the domain of the given values."""
    return {"choice": list(values), **beside}


@_domain
def grid(values: Iterable[Any], **beside: Any) -> Domain:
    """Makes the domain of the given values; random search takes every combination of the grids in turn."""
    return {"grid": list(values), **beside}


@_domain
def uniform(low: float, high: float, **beside: Any) -> Domain:
    """Makes the domain of the floats from low to high, with both ends."""
    return {"uniform": [low, high], **beside}


@_domain
def loguniform(low: float, high: float, **beside: Any) -> Domain:
    """Makes the domain of the floats from low to high, uniform in the logarithm."""
    return {"loguniform": [low, high], **beside}


@_domain
def randint(low: int, high: int, **beside: Any) -> Domain:
    """Makes the domain of the integers from low to high, with both ends."""
    return {"randint": [low, high], **beside}


@_domain
def quniform(low: float, high: float, q: float, **beside: Any) -> Domain:
    """Makes the domain of the multiples of q from low to high, which are multiples of q too."""
    return {"quniform": [low, high, q], **beside}


@_domain
def qloguniform(low: float, high: float, q: float, **beside: Any) -> Domain:
    """Makes the domain of the multiples of q from low to high, uniform in the logarithm."""
    return {"qloguniform": [low, high, q], **beside}


@_domain
def qrandint(low: int, high: int, q: int, **beside: Any) -> Domain:
    """Makes the domain of the integer multiples of q from low to high, which are multiples of q too."""
    return {"qrandint": [low, high, q], **beside}
