"""Output that nobody can read any more."""

from __future__ import annotations

import os
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
