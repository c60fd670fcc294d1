"""Makes foreign text, such as a file's name or a library's message, safe to print in one line of a terminal or log."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

MOST = 2000
"""Most characters of a line, unless told otherwise."""
MOST_KEPT = 5000
"""Most characters of a text in the event log."""
MOST_SHOWN = 500
"""Most characters of a trial's failure on a terminal."""


def legible(text: str, most: int = MOST) -> str:
    """One line of at most `most` characters: control characters as escapes, the middle of a long text left out.

    What it gives can be encoded in UTF-8, moves no terminal's cursor, and stays as it is when it comes here again.
    The note on what is left out needs about 40 characters, also of a smaller `most`.
    """
    # Before the escapes: a text may be very long.
    kept = text if len(text) <= 2 * most else text[:most] + text[-most:]
    shown = "".join(map(_legible, " ".join(kept.splitlines())))
    if len(text) <= most and len(shown) <= most:
        return shown
    note = f" ... ({len(text)} characters) ... "
    room = max(0, most - len(note))
    return shown[: room - room // 2] + note + shown[len(shown) - room // 2 :]


def _legible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


Words = Annotated[str, BeforeValidator(lambda value: legible(value, MOST_KEPT) if isinstance(value, str) else value)]
"""A field for foreign text: it is made legible when it is set."""
