"""JSON from files that others wrote: what cannot be read is a ValueError, however it is spoilt."""

from __future__ import annotations

import json
from typing import Any

DEPTH = 100
"""Lists and mappings inside each other, at most: what reads them goes down one call per level."""


def parse(raw: bytes | str) -> Any:
    """The value of JSON text, bytes in UTF-8.

    Raises:
        ValueError: it is not JSON, not UTF-8, holds a number of thousands of digits, or is nested more than `DEPTH`
            deep. A `json.JSONDecodeError` where there is a place to name.
    """
    text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # whose words are for programmers
        raise ValueError("it holds a number of thousands of digits") from None
    # Counting is fast and never too low.
    if text.count("[") + text.count("{") > DEPTH and _is_deep(value):
        raise _too_deep()
    return value


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
