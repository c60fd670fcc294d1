"""Draws near a value of a domain, and how dense they are. Pure; randomness is an argument."""

from __future__ import annotations

import math
from random import Random

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
    middle = domain.position(centre)
    inside = _cumulative((1 - middle) / spread) - _cumulative(-middle / spread)
    distance = (domain.position(value) - middle) / spread
    return math.exp(-0.5 * distance**2) / math.sqrt(2 * math.pi) / spread / inside


def _cumulative(deviations: float) -> float:
    return 0.5 * (1 + math.erf(deviations / math.sqrt(2)))
