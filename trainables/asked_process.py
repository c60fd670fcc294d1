"""Asks a question of a separate Python process, which ends when the asker ends and can be killed at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

from trainables import timeouts

Process = subprocess.Popen[bytes]


@contextmanager
def asking(
    words: Sequence[str],
    asked: str,
    stdout: int | IO[bytes],
    stderr: IO[bytes],
    environment: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """Runs a module of this Python in a process of its own. After the block, kills the process and all its children.

    Args:
        words: the module, whose `main` begins with `question()`, and its arguments. Anyone on the machine can read
            them.
        asked: the question in one line. No other user can read it.
        environment: variables beside those of this process.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.Popen(
        # -P: the current folder stays where it is in this process's path, and does not come first.
        [sys.executable, "-P", "-m", *words],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        env={**os.environ, **(environment or {}), "PYTHONPATH": path},
    )
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):  # the process has ended already, as its exit status tells
            process.stdin.write(asked.encode() + b"\n")
            process.stdin.flush()
        yield process
    finally:
        kill(process)
        with suppress(OSError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeouts.KILLED_PROCESS)


def kill(process: Process) -> None:
    """Kills a process of `asking`, and all its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def question() -> str:
    """Returns the question asked of this process. From now on, this process ends as soon as the asker is gone."""
    read = b""
    while not read.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            os._exit(1)
        read += part
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    return read.decode()


def _end_with_the_asker() -> None:
    # Not through sys.stdin: its lock would be held while the interpreter ends.
    while os.read(0, 1):
        pass
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def last_line(file: IO[bytes]) -> str:
    """Returns the last line of a file; "" if the file is empty."""
    file.seek(0)
    lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
