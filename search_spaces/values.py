"""Defines the values of a point, compares and checks them, and holds the error of this package."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

Value = bool | int | float | str | tuple[str, ...]
"""A flag, a number, a word, or a list of words (target modules) as a tuple. The order of its words has no meaning."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class SpaceError(ValueError):
    """The search space is wrong. The user can correct it, so it is printed without a traceback.

    Attributes:
        problems: one line each, "field: value and rule: what to do".
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[SpaceError], tuple[tuple[str, ...]]]:
        return SpaceError, (self.problems,)


def identity(value: object) -> tuple[bool, object]:
    """Returns a key that is equal for equal values: 1 equals 1.0 but not true.

    Ignores the order of a list of words, because a list of target modules is a set.
    """
    return isinstance(value, bool), tuple(sorted(value, key=repr)) if isinstance(value, tuple) else value


def is_number(value: object) -> TypeGuard[float]:
    """Tells whether `value` is a finite number; a flag is not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the largest float
        return False


def as_value(raw: object) -> Any:
    """Turns a YAML list into a tuple. Returns anything else unchanged, so that `value_problem` can check it."""
    return tuple(raw) if isinstance(raw, list) else raw


def as_raw(value: object) -> object:
    """Returns `value` as plain YAML and JSON data: a tuple becomes a list."""
    return list(value) if isinstance(value, tuple) else value


def shown(raw: object) -> str:
    """Returns `raw` as a person would write it in YAML, for messages."""
    if raw is None or isinstance(raw, bool):
        return "null" if raw is None else str(raw).lower()
    if isinstance(raw, list | tuple):
        return f"[{', '.join(map(shown, raw))}]"
    if isinstance(raw, Mapping):
        return f"{{{', '.join(f'{key}: {shown(value)}' for key, value in raw.items())}}}"
    return repr(raw)


def value_problem(value: object) -> str | None:
    """Returns why `value` (after `as_value`) cannot be searched, and what to do; None when it can."""
    if isinstance(value, bool) or is_number(value):
        return None
    words = value if isinstance(value, tuple) else (value,)
    if not words or not all(isinstance(word, str) for word in words):
        return f"{shown(value)} is not a value: name a flag, a finite number, a word or a list of words"
    for word in words:
        if not word.strip():
            return f"{word!r} is an empty word: name a word"
        if _NUMBER.fullmatch(word):
            return f"{word!r} is a word, not a number: write {word} without quotes"
    return f"{shown(value)} holds {shown(again[0])} twice: keep one" if (again := repeated(words)) else None


def number_problem(value: object, *, whole: bool) -> str | None:
    """Returns why `value` is not a finite number (an integer, if `whole`), and what to do; None when it is."""
    if is_number(value) and (isinstance(value, int) or not whole):
        return None
    way_out = ""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        way_out = f": write {value} without quotes"
    elif is_number(value) and value == int(value):
        way_out = f": write {int(value)}"
    return f"{shown(value)} is not {'an integer' if whole else 'a finite number'}{way_out}"


def repeated(values: Iterable[object]) -> list[object]:
    """Returns the values that occur again, in order."""
    seen: set[tuple[bool, object]] = set()
    again = []
    for value in values:
        if identity(value) in seen:
            again.append(value)
        seen.add(identity(value))
    return again


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Returns ', did you mean X?' with the known word most similar to `word`; ':' when none is similar."""
    # As in trainables/inputs/similar.py: neither of the two packages imports the other.
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f", did you mean {near[0]}?" if near else ":"
