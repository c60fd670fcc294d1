"""Keeps a sweep going when nobody reads its output any more, or nobody ever did."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from textwrap import TextWrapper
from typing import IO, TextIO, cast

FEWEST_COLUMNS = 40
"""Lines of a terminal that is narrower, or that does not know its width, are left as they are."""


class Heedless:
    """A stream that goes quiet once it cannot be written: a closed pipe, a terminal that is gone, a full disk."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text, or nothing."""
        try:
            self._stream.write(text)
        except RuntimeError:
            # A signal has interrupted this thread in a write, and its handler speaks (docs.python.org, io, Reentrancy).
            with suppress(OSError, ValueError):
                os.write(self._stream.fileno(), text.encode(errors="backslashreplace"))
        except (OSError, ValueError):  # the latter of a stream that somebody has closed
            self._let_go()
        return len(text)

    def flush(self) -> None:
        """Flushes, or goes quiet."""
        try:
            self._stream.flush()
        except RuntimeError:
            pass  # Whoever was interrupted flushes.
        except (OSError, ValueError):
            self._let_go()

    def _let_go(self) -> None:
        """Sends everything to nowhere from now on, also what is still in the stream's buffer and would fail at exit."""
        with suppress(OSError, ValueError):
            to_nowhere(self._stream.fileno())
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def fitted(line: str, stream: IO[str]) -> str:
    """The line, wrapped at words where the stream is a terminal that is too narrow for it.

    A line that begins with two blanks and no more is a command or a path: whole, it can be copied.
    """
    is_to_copy = line.startswith("  ") and line[2:3] != " "
    if is_to_copy or not stream.isatty():
        return line
    try:
        width = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return line
    if not FEWEST_COLUMNS <= width < len(line):
        return line
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    wrap = TextWrapper(width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrap.wrap(line))


def to_nowhere(descriptor: int) -> None:
    """Points an open file descriptor at nothing."""
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != descriptor:
        os.dup2(nothing, descriptor)
        os.close(nothing)


def make_heedless() -> None:
    """Wraps this process's stdout and stderr in `Heedless`, and opens those that the caller has closed.

    A closed one is not left so: the next file that is opened would take its number, and get what is said there.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            to_nowhere(descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or os.fdopen(descriptor, "w")
        setattr(sys, name, cast(TextIO, Heedless(stream)))


def end_at_once(code: int) -> None:
    """Writes out what is left and ends the process without waiting for its threads."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
