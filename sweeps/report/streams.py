"""Output streams that keep a sweep going if nobody reads its output."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from textwrap import TextWrapper
from typing import IO, TextIO, cast

FEWEST_COLUMNS = 40
"""Fewest columns of a terminal whose lines are wrapped. A terminal of unknown width may report 0."""


class QuietStream:
    """A stream that goes quiet once it cannot be written: a closed pipe, a lost terminal, a full disk."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text, or nothing."""
        try:
            self._stream.write(text)
        except RuntimeError:
            # A signal's handler writes while this thread is inside a write (docs.python.org, io, Reentrancy).
            with suppress(OSError, ValueError):
                os.write(self._stream.fileno(), text.encode(errors="backslashreplace"))
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._let_go()
        return len(text)

    def flush(self) -> None:
        """Flushes, or goes quiet."""
        try:
            self._stream.flush()
        except RuntimeError:
            pass  # The interrupted write is flushed later.
        except (OSError, ValueError):
            self._let_go()

    def _let_go(self) -> None:
        """Discards all output from now on, also the rest of the stream's buffer, which would fail at exit."""
        with suppress(OSError, ValueError):
            to_nowhere(self._stream.fileno())
            self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def fitted(line: str, stream: IO[str]) -> str:
    """Wraps the line at words if the stream is a terminal that is too narrow for the line.

    A line that begins with exactly two blanks is a command or a path. It stays whole, so that it can be copied.
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
    """Points a file descriptor, open or closed, at /dev/null."""
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != descriptor:
        os.dup2(nothing, descriptor)
        os.close(nothing)


def quiet_standard_streams() -> None:
    """Wraps stdout and stderr in `QuietStream`, and opens standard streams that the caller has closed.

    Without that, the next opened file would take the number of a closed stream, and would get its output.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            to_nowhere(descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or os.fdopen(descriptor, "w")
        stream.reconfigure(line_buffering=True)  # one log may take both: their lines stay in order
        setattr(sys, name, cast(TextIO, QuietStream(stream)))


def end_at_once(code: int) -> None:
    """Flushes stdout and stderr, and ends the process without waiting for its threads."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
