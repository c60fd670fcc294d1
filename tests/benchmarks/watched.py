"""Runs a command and watches what its processes take."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Watched:
    """A command that has ended well."""

    started: float
    """Seconds since the epoch."""
    seconds: float
    peak_bytes: int
    """Most memory of the command's processes together (PSS: what they share is counted once)."""
    cpu_seconds: float
    """User and system time of the command's processes, up to the last look at each."""


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Watched:
    """Runs the command in the folder; its output goes to out.txt and err.txt there. Exits where the command fails."""
    folder.mkdir(parents=True, exist_ok=True)
    started, begun = time.time(), time.monotonic()
    peak, used = 0, dict[int, float]()
    with (folder / "out.txt").open("wb") as out, (folder / "err.txt").open("wb") as err:
        running = subprocess.Popen(command, cwd=folder, env=dict(environment), stdout=out, stderr=err)
        over = threading.Event()

        def look() -> None:
            nonlocal peak
            while not over.wait(SAMPLE_SECONDS):
                peak = max(peak, _look(running.pid, used))

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
    return Watched(started, seconds, peak, sum(used.values()))


def _look(root: int, used: dict[int, float]) -> int:
    """Bytes of the process and of those below it now; notes the CPU seconds of each by its id."""
    total = 0
    try:
        found = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in found:
        try:
            used[process.pid] = sum(process.cpu_times()[:2])
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # It has just ended.
    return total
