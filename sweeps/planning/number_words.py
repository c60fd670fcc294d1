"""Numbers in words. Pure."""

from __future__ import annotations

from sweeps.config.points import Scalar


def counted(count: int, word: str) -> str:
    """The count and its word: 1 step, 2 steps."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def limit(value: Scalar | None) -> str:
    """A budget, or a number of hosts, as people read it; None is unlimited."""
    return "unlimited" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def size(size_bytes: int) -> str:
    """Bytes as MB, from 0.1 GB on as GB."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: 40 s, 4 min 30 s, 3 h 10 min, 2 d 4 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
