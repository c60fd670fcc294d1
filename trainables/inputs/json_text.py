"""Reads JSON from foreign files. Every fault of the JSON raises a ValueError."""

from __future__ import annotations

import json
from typing import Any

DEPTH = 100
"""The deepest nesting of lists and mappings. Code that reads them makes one call per level."""


class _RefusedError(ValueError):
    """The text holds something that `json` accepts and the caller does not."""


def parse(raw: bytes | str, *, unique_keys: bool = False, allow_nan: bool = True) -> Any:
    """Parses JSON text; bytes must be UTF-8.

    Args:
        unique_keys: refuse an object that has a key twice; otherwise the last value counts, as in `json`.
        allow_nan: accept NaN, Infinity and -Infinity, which are not JSON, as `json` does.

    Raises:
        ValueError: the text is not JSON, not UTF-8, holds a number with thousands of digits, is nested more than
            `DEPTH` deep, or has a key twice. An error with a place in the text is a `json.JSONDecodeError`.
    """
    text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique if unique_keys else None,
            parse_constant=None if allow_nan else _refuse_constant,
        )
    except RecursionError:
        raise _too_deep() from None
    except (json.JSONDecodeError, _RefusedError):
        raise
    except ValueError:  # Python's message is written for programmers
        raise ValueError("it holds a number with thousands of digits") from None
    # The number of brackets is fast to count and never below the depth.
    if text.count("[") + text.count("{") > DEPTH and _is_deep(value):
        raise _too_deep()
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RefusedError(f"it has the key {next(key for key in keys if keys.count(key) > 1)!r} twice in one object")
    return value


def _refuse_constant(name: str) -> Any:
    raise _RefusedError(f"it holds {name}, which is no JSON")


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {DEPTH} deep")


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEPTH + 1):
        parts = [part for part in level if isinstance(part, dict | list)]
        if not parts:
            return False
        level = [inner for part in parts for inner in (part.values() if isinstance(part, dict) else part)]
    return True
