"""Suggests existing names for one that does not exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches

SIMILARITY = 0.5
"""The least similarity of two names (0 to 1, `difflib.SequenceMatcher.ratio`) for a suggestion."""


def closest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Returns the names of `known` that are similar to `name`, whatever their case; the most similar first."""
    by_lower = {each.lower(): each for each in known}
    return [by_lower[each] for each in get_close_matches(name.lower(), by_lower, most, SIMILARITY)]


def did_you_mean(name: str, known: Iterable[str], most: int = 1, shown: Callable[[str], str] = str) -> str:
    """Returns the end of a message: "; did you mean X or Y?", or "" if no name is similar.

    Args:
        name: the unknown name.
        known: the names that exist.
        most: the most names to offer.
        shown: writes a name for the message.
    """
    names = closest(name, known, most)
    return f"; did you mean {' or '.join(map(shown, names))}?" if names else ""
