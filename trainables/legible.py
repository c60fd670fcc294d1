"""Text of others, such as a file's name or a library's message, made fit for one line of a terminal or a log."""

from __future__ import annotations

MOST = 2000
"""Characters."""


def legible(text: str, most: int = MOST) -> str:
    """One line of at most about `most` characters: control characters as escapes, the middle of a long text left out.

    What it gives can be encoded in UTF-8, and moves no terminal's cursor.
    """
    # Before the escapes: a text may be very long.
    if len(text) > most:
        kept = most // 2
        text = f"{text[:kept]} ... ({len(text) - 2 * kept} characters) ... {text[-kept:]}"
    return "".join(map(_legible, " ".join(text.splitlines())))


def _legible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
