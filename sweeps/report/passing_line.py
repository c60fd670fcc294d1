"""A line of progress: rewritten in place in a terminal, printed now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from sweeps import timeouts


class PassingLine:
    """A line of progress. Call `end` before anything else is printed on the console."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        """Shows nothing yet; `clock` returns seconds."""
        self._console = console
        self._clock = clock
        self._said = clock()
        self._latest = ""
        self._is_shown = False
        self._rewrites = console.is_terminal and not console.is_dumb_terminal

    def show(self, line: str) -> None:
        """Shows the line in place of the one before."""
        if self._rewrites:
            self._erase()
            # Not into the last column, where terminals begin a new line.
            self._print(line[: self._console.width - 1], end="")
            self._is_shown = True
        elif line != self._latest and self._clock() - self._said >= timeouts.PASSING_SECONDS:
            self._print(line, end="\n")
            self._said, self._latest = self._clock(), line

    def say(self, line: str) -> None:
        """Prints a line that stays."""
        self.end()
        self._print(line, end="\n")

    def end(self) -> None:
        """Erases the line before something else is printed."""
        self._erase()
        self._said = self._clock()

    def _erase(self) -> None:
        if self._is_shown:
            self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
        self._is_shown = False

    def _print(self, line: str, end: str) -> None:
        self._console.print(line, end=end, markup=False, highlight=False, soft_wrap=True)
