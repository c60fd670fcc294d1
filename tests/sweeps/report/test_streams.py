"""Output that nobody can read any more."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from sweeps.report.streams import Heedless

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


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_process_whose_reader_left_ends_as_it_would_have(name):
    reader, writer = os.pipe()
    os.close(reader)
    code = f"{SAY}for _ in range(9): print('x' * 9999, file=sys.{name})\nsys.exit(5)"
    given: dict[str, Any] = {name: writer}
    done = subprocess.run([sys.executable, "-c", code], **given, check=False)
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
