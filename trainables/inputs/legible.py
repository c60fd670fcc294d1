"""Makes foreign text, such as a file's name or a library's message, safe to print in one line of a terminal or log."""

from __future__ import annotations

LONGEST_LINE = 2000
"""The most characters of a line by default."""
MOST_SHOWN = 500
"""The most characters of a trial's failure on a terminal."""


def legible(text: str, most: int = LONGEST_LINE) -> str:
    """Returns one line of at most `most` characters. Escapes control characters; leaves out the middle of a long text.

    The line can be encoded in UTF-8, cannot move the cursor of a terminal, and does not change in a second call. The
    note about the part left out needs about 40 characters, even if `most` is smaller.
    """
    # Cut first, because a text may be very long.
    kept = text if len(text) <= 2 * most else text[:most] + text[-most:]
    shown = "".join(map(_legible, " ".join(kept.splitlines())))
    if len(text) <= most and len(shown) <= most:
        return shown
    note = f" ... ({len(text)} characters) ... "
    room = max(0, most - len(note))
    return shown[: room - room // 2] + note + shown[len(shown) - room // 2 :]


def _legible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
