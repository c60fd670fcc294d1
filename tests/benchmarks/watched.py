"""Runs a command and watches what its processes take."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

SAMPLE_SECONDS = 1.0


class Watched(NamedTuple):
    """A command that has ended well."""

    seconds: float
    peak_bytes: int
    """Most memory of the command's processes together (PSS: what they share is counted once)."""


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Watched:
    """Runs the command in the folder; its output goes to out.txt and err.txt there. Exits where the command fails."""
    folder.mkdir(parents=True, exist_ok=True)
    begun, peak = time.monotonic(), 0
    with (folder / "out.txt").open("wb") as out, (folder / "err.txt").open("wb") as err:
        running = subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=out, stderr=err)
        over = threading.Event()

        def look() -> None:
            nonlocal peak
            while not over.wait(SAMPLE_SECONDS):
                peak = max(peak, _bytes(running.pid))

        watching = threading.Thread(target=look, daemon=True)
        watching.start()
        try:
            code = running.wait()
        finally:
            seconds = time.monotonic() - begun
            over.set()
            watching.join()
            if running.poll() is None:
                running.terminate()
    if code:
        raise SystemExit(f"{' '.join(command)}: exit code {code}; see {folder}/err.txt")
    return Watched(seconds, peak)


def _bytes(root: int) -> int:
    """Of the process and of those below it now."""
    total = 0
    try:
        found = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in found:
        with suppress(psutil.Error):  # it has just ended
            total += process.memory_full_info().pss
    return total
