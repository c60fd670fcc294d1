"""Draws near a value of a domain, and how dense they are. Pure; randomness is an argument."""

from __future__ import annotations

from random import Random
from statistics import NormalDist

from search_spaces.domains import Domain, Value, identity

FAVOUR = 4.0
"""How much more likely the centre is than each other value, among words and flags."""
MOST_DRAWS = 1000


def near(domain: Domain, centre: Value, spread: float, rng: Random) -> Value:
    """A value of the domain near `centre`.

    Args:
        spread: standard deviation in the domain's length, for numbers: a normal distribution cut at both ends.
    """
    if not domain.is_ordered:
        options = domain.values() or ()
        weights = [FAVOUR if identity(option) == identity(centre) else 1.0 for option in options]
        return rng.choices(options, weights)[0]
    middle = domain.position(centre)
    for _ in range(MOST_DRAWS):
        position = rng.gauss(middle, spread)
        if 0 <= position <= 1:
            return domain.at(position)
    return centre


def density(domain: Domain, centre: Value, spread: float, value: Value) -> float:
    """How much more likely `near` draws `value` than a draw at random does."""
    if not domain.is_ordered:
        options = domain.values() or ()
        weight = FAVOUR if identity(value) == identity(centre) else 1.0
        return weight * len(options) / (FAVOUR + len(options) - 1)
    normal = NormalDist(domain.position(centre), spread)
    return normal.pdf(domain.position(value)) / (normal.cdf(1) - normal.cdf(0))
