"""Processes that answer one question, end with the process that asked, and cannot keep it waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO

END_SECONDS = 5.0
"""How long a killed process may take to end. One that waits for a dead network drive does not end at all."""
Child = subprocess.Popen[bytes]
_running: list[Child] = []


@contextmanager
def asking(
    words: Sequence[str],
    question: str,
    stdout: int | IO[bytes],
    stderr: IO[bytes],
    environment: Mapping[str, str] | None = None,
) -> Iterator[Child]:
    """Runs a module of this Python in a process of its own, and kills it with all it has started after the block.

    Args:
        words: the module, whose `main` begins with `question()`, and its arguments, which anyone on the machine can
            read.
        question: one line, which nobody else can read.
        environment: variables beside those of this process.
    """
    # -P: the current folder stays where it is in this process's path, and does not come first.
    command = [sys.executable, "-P", "-m", *words]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        env={**os.environ, **(environment or {}), "PYTHONPATH": path},
    )
    _running.append(process)
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already: its exit status says so
            process.stdin.write(question.encode() + b"\n")
            process.stdin.flush()
        yield process
    finally:
        _kill(process)
        _running.remove(process)
        with suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)


def end_all() -> None:
    """Kills the processes of all blocks, which other threads wait for."""
    for process in list(_running):
        _kill(process)


def question() -> str:
    """The line that this process was asked. The process ends as soon as the one that asked is gone."""
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


def _kill(process: Child) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
