"""Output that nobody can read any more; long lines in a terminal."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import pytest

from sweeps.report.streams import Heedless, fitted

SAY = "from sweeps.report import streams; streams.make_heedless(); import sys\n"


def test_a_stream_whose_reader_left_goes_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        heedless = Heedless(stream)
        for _ in range(3):
            assert heedless.write("a line\n") == 7
            heedless.flush()
        assert not heedless.isatty()  # type: ignore[operator]


def test_a_stream_that_somebody_closed_goes_quiet(tmp_path):
    stream = (tmp_path / "out").open("w")
    stream.close()
    heedless = Heedless(stream)
    assert heedless.write("a line\n") == 7
    heedless.flush()


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
    heedless = Heedless(io.TextIOWrapper(io.BufferedWriter(Interrupted(tmp_path / "out", "w")), line_buffering=True))

    def speak(_number: int, _frame: object) -> None:
        heedless.write("ended at once\n")
        heedless.flush()

    before = signal.signal(signal.SIGUSR1, speak)
    try:
        heedless.write("stopping\n")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sorted((tmp_path / "out").read_text().splitlines()) == ["ended at once", "stopping"]


def test_a_process_whose_reader_left_ends_as_it_would_have():
    reader, writer = os.pipe()
    os.close(reader)
    code = f"{SAY}for _ in range(9): print('x' * 9999)\nsys.exit(5)"
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, check=False)
    os.close(writer)
    assert done.returncode == 5


def test_what_is_said_to_a_closed_stderr_gets_into_no_file(tmp_path):
    code = (
        f"{SAY}import os\nfile = open('kept', 'w')\nprint('said', file=sys.stderr)\nos.write(2, b'raw')\n"
        "file.write('kept')\nfile.close()"
    )
    command = f'exec {sys.executable} -c "$CODE" 2>&-'
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env={**os.environ, "CODE": code}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "kept").read_text() == "kept"


LONG = "      where: on this machine: 1 CPU host with 4 slots; memory: about 4.9 GB at most"


@pytest.fixture
def terminal() -> Iterator[Callable[[int], TextIO]]:
    """A terminal of so many columns."""
    keyboard, screen = pty.openpty()
    with os.fdopen(screen, "w") as stream:

        def of(columns: int) -> TextIO:
            termios.tcsetwinsize(screen, (24, columns))
            return stream

        yield of
    os.close(keyboard)


def test_a_long_line_is_wrapped_at_words_in_a_terminal(terminal):
    assert fitted(LONG, terminal(50)).splitlines() == [
        "      where: on this machine: 1 CPU host with 4",
        "        slots; memory: about 4.9 GB at most",
    ]
    assert fitted("a" * 60 + " b", terminal(50)) == "a" * 60 + "\n  b"


@pytest.mark.parametrize("columns", [0, 20, len(LONG)])
def test_a_line_that_fits_and_one_of_a_terminal_without_a_width_stay(terminal, columns):
    assert fitted(LONG, terminal(columns)) == LONG


def test_a_command_to_copy_stays_whole(terminal):
    assert fitted(command := f"  qsweep resume {'x ' * 60}", terminal(50)) == command


def test_what_goes_into_a_pipe_or_a_file_is_not_wrapped(tmp_path):
    with (tmp_path / "log").open("w") as stream:
        assert fitted(LONG * 9, stream) == LONG * 9
