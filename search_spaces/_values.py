"""Defines the values of a point, compares and checks them, and rounds drawn numbers."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

Value = bool | int | float | str | tuple[str, ...]
"""A flag, a number, a word, or a list of words (target modules) as a tuple. The order of its words has no meaning."""

SIGNIFICANT_DIGITS = 3
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def identity(value: object) -> tuple[str, object]:
    """Returns a key that is equal for equal values: 1 equals 1.0 but not true.

    Ignores the order of a list of words, because a list of target modules is a set.
    """
    if isinstance(value, bool):
        return ("flag", value)
    if isinstance(value, int | float):
        return ("number", value)
    if isinstance(value, str):
        return ("word", value)
    if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        return ("words", tuple(sorted(value)))
    return ("no value", repr(value))


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
        return f"[{', '.join(shown(item) for item in raw)}]"
    if isinstance(raw, Mapping):
        return f"{{{', '.join(f'{key}: {shown(value)}' for key, value in raw.items())}}}"
    return repr(raw)


def value_problem(value: object) -> str | None:
    """Returns why `value` (after `as_value`) cannot be searched, and what to do; None when it can."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return None if is_number(value) else f"{value} is not a finite number"
    if isinstance(value, str):
        return _word_problem(value)
    if isinstance(value, tuple):
        return _words_problem(value)
    if value is None:
        return "null is not a value: name a flag, a number, a word or a list of words"
    return f"{shown(value)} is not a value: name a flag, a number, a word or a list of words"


def number_problem(value: object, *, whole: bool) -> str | None:
    """Returns why `value` is not a finite number (an integer, if `whole`), and what to do; None when it is."""
    kind = "an integer" if whole else "a number"
    if isinstance(value, bool):
        return f"{shown(value)} is a flag, not {kind}"
    if isinstance(value, str):
        return f"{value!r} is a word, not {kind}{_as_written(value)}"
    if not isinstance(value, int | float):
        return f"{shown(value)} is not {kind}"
    if not is_number(value):
        return f"{value} is not a finite number"
    if whole and not isinstance(value, int):
        return f"{value!r} is not an integer" + (f": write {int(value)}" if value == int(value) else "")
    return None


def repeated(values: Iterable[object]) -> list[object]:
    """Returns the values that occur again, in order."""
    seen: set[tuple[str, object]] = set()
    again = []
    for value in values:
        if identity(value) in seen:
            again.append(value)
        seen.add(identity(value))
    return again


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Returns ', did you mean X?' with the known word most similar to `word`; '' when none is similar."""
    # As in trainables/inputs/similar.py: neither of the two packages imports the other.
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f", did you mean {near[0]}?" if near else ""


def round_between(value: float, low: float, high: float) -> float:
    """Rounds `value` to at most a thousandth of the range from `low` to `high`, and keeps it inside."""
    width = high - low
    decimals = SIGNIFICANT_DIGITS + math.ceil(-math.log10(width)) if width > 0 else 0
    return _within(round(value, max(decimals, 0)), low, high)


def round_significant(value: float, low: float, high: float) -> float:
    """Rounds a positive `value` to 3 significant digits, or more if the range is narrow, and keeps it inside."""
    span = math.log(high) - math.log(low)
    extra = max(0, math.ceil(-math.log10(span))) if span > 0 else 0
    return _within(float(f"{value:.{SIGNIFICANT_DIGITS - 1 + extra}e}"), low, high)


def _within(value: float, low: float, high: float) -> float:
    return float(min(max(value, low), high)) + 0.0  # + 0.0 turns -0.0 into 0.0


def _word_problem(word: str) -> str | None:
    if not word.strip():
        return f"{word!r} is an empty word"
    if _NUMBER.fullmatch(word):
        return f"{word!r} is a word, not a number{_as_written(word)}"
    return None


def _words_problem(words: tuple[object, ...]) -> str | None:
    if not words:
        return "[] is empty: list at least one word"
    for word in words:
        if not isinstance(word, str):
            return f"{shown(words)} may hold only words, and {shown(word)} is not a word"
        if problem := _word_problem(word):
            return problem
    if again := repeated(words):
        return f"{shown(words)} holds {shown(again[0])} twice: keep one"
    return None


def _as_written(word: str) -> str:
    """Returns how to write a number that YAML 1.1 (PyYAML) reads as a word: 1e-5 lacks the dot, 1.0e5 the sign."""
    match = _NUMBER.fullmatch(word)
    if match is None:
        return ""
    mantissa, exponent = match.group(1), match.group(2)
    if exponent is None:
        return f": write {word} without quotes"
    sign = "" if exponent[1] in "+-" else "+"
    dotted = mantissa if "." in mantissa else f"{mantissa}.0"
    minus = "-" if word.startswith("-") else ""
    return f": YAML reads it as a word, write {minus}{dotted}e{sign}{exponent[1:]}"
