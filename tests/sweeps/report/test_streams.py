"""Output that nobody can read any more; long lines in a terminal."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import termios
from typing import Any

import pytest

from sweeps.report.streams import QuietStream, fitted

SAY = "from sweeps.report import streams; streams.quiet_standard_streams(); import sys\n"


def test_a_stream_whose_reader_left_or_that_somebody_closed_goes_quiet(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    closed = (tmp_path / "out").open("w")
    closed.close()
    with os.fdopen(writer, "w") as stream:
        for quiet in (QuietStream(stream), QuietStream(closed)):
            for _ in range(3):
                assert quiet.write("a line\n") == 7
                quiet.flush()
        assert not QuietStream(stream).isatty()  # type: ignore[operator]


class Interrupted(io.FileIO):
    """A file in whose first write a signal comes."""

    is_first = True

    def write(self, content: Any) -> int:
        if self.is_first:
            self.is_first = False
            signal.raise_signal(signal.SIGUSR1)
        return super().write(content)


def test_a_signals_handler_speaks_while_its_thread_is_in_a_write(tmp_path):
    """Ctrl-C comes again before the words about the first one are all out: an error there would be the sweep's end."""
    quiet = QuietStream(io.TextIOWrapper(io.BufferedWriter(Interrupted(tmp_path / "out", "w")), line_buffering=True))

    def speak(_number: int, _frame: object) -> None:
        assert quiet.write("ended at once\n") == 14
        quiet.flush()

    before = signal.signal(signal.SIGUSR1, speak)
    try:
        quiet.write("stopping\n")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sorted((tmp_path / "out").read_text().splitlines()) == ["ended at once", "stopping"]


def test_a_process_whose_reader_left_ends_as_it_would_have_and_one_without_stderr_says_it_into_no_file(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    code = f"{SAY}for _ in range(9): print('x' * 9999)\nsys.exit(5)"
    assert subprocess.run([sys.executable, "-c", code], stdout=writer, check=False).returncode == 5
    os.close(writer)
    code = (
        f"{SAY}import os\nfile = open('kept', 'w')\nprint('said', file=sys.stderr)\nos.write(2, b'raw')\n"
        "file.write('kept')\nfile.close()"
    )
    command, environment = ["bash", "-c", f'exec {sys.executable} -c "$CODE" 2>&-'], {**os.environ, "CODE": code}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "kept").read_text() == "kept"


LONG = "      where: on this machine: 1 CPU host with 4 slots; memory: about 4.9 GB at most"
COMMAND = f"  qsweep resume {'x ' * 60}"


@pytest.mark.parametrize(
    ("columns", "line", "lines"),
    [
        (50, LONG, ["      where: on this machine: 1 CPU host with 4", "        slots; memory: about 4.9 GB at most"]),
        (50, "a" * 60 + " b", ["a" * 60, "  b"]),
        *((columns, LONG, [LONG]) for columns in (0, 20, len(LONG))),
        (50, COMMAND, [COMMAND]),
    ],
    ids=["long", "long word", "no width", "narrow", "fits", "command to copy"],
)
def test_a_long_line_is_wrapped_at_words_in_a_terminal(columns, line, lines):
    keyboard, screen = pty.openpty()
    with os.fdopen(screen, "w") as terminal:
        termios.tcsetwinsize(screen, (24, columns))
        assert fitted(line, terminal).splitlines() == lines
    os.close(keyboard)
    assert fitted(line, io.StringIO()) == line, "in no terminal"
