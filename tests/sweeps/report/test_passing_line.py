"""A line that says how far something has come."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from sweeps.report.passing_line import PassingLine
from sweeps.timeouts import PASSING_SECONDS


def line_on(clock: list[float], is_terminal: bool, width: int = 40) -> tuple[PassingLine, StringIO]:
    out = StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=width, _environ={"TERM": "xterm"})
    return PassingLine(console, lambda: clock[0]), out


def test_a_terminal_shows_the_latest_alone_in_one_line():
    line, out = line_on([0.0], True, width=10)
    line.show("t01: 8 of")
    line.show("[b]" + "x" * 30)
    line.end()
    assert out.getvalue() == "t01: 8 of\r\x1b[2K[b]xxxxxx\r\x1b[2K"


def test_a_log_gets_a_line_now_and_then():
    clock = [0.0]
    line, out = line_on(clock, False)
    line.show("at once")
    clock[0] += PASSING_SECONDS
    line.show("8 of 80 rows")
    line.show("16 of 80 rows")
    clock[0] += PASSING_SECONDS
    line.end()  # another line is printed
    line.show("24 of 80 rows")
    assert out.getvalue() == "8 of 80 rows\n"
