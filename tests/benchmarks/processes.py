"""Short trials: how many processes they take, and what a trial costs beside its training."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil

from sweeps.record.events import TrialEnded, TrialStarted
from sweeps.record.folder import read_events

SLOTS = (4, 40)
SAMPLE_SECONDS = 0.2


def main(trials: int) -> None:
    """Prints for each number of slots the seconds per trial, most trials at once, and processes."""
    print(f"{trials} trials of the toy, with steps that take no time")
    for slots in SLOTS:
        with tempfile.TemporaryDirectory() as folder:
            used, alive, idle = _launch(Path(folder), trials, slots)
            seconds, at_once = _seconds(Path(folder))
        print(
            f"  {slots:2} slots: {seconds / trials:.2f} s a trial, {at_once} at once; "
            f"{used} trial processes, {alive} at a time, {idle} idle ones"
        )


def _launch(folder: Path, trials: int, slots: int) -> tuple[int, int, int]:
    """Trial processes in all, most of them at a time, and most idle workers at a time."""
    words = ["launch", "toy", f"budget.trials={trials}", f"cluster.slots_per_host={slots}"]
    command = [sys.executable, "-m", "sweeps", *words]
    sweep = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    used: set[int] = set()
    alive = idle = 0
    while sweep.poll() is None:
        titles = _titles(sweep.pid)
        trial_pids = {pid for pid, title in titles.items() if title.startswith("ray::SlotTrial")}
        used |= trial_pids
        alive = max(alive, len(trial_pids))
        idle = max(idle, sum(title.startswith("ray::IDLE") for title in titles.values()))
        threading.Event().wait(SAMPLE_SECONDS)
    return len(used), alive, idle


def _titles(pid: int) -> dict[int, str]:
    titles = {}
    try:
        for child in psutil.Process(pid).children(recursive=True):
            titles[child.pid] = " ".join(child.cmdline())
    except psutil.NoSuchProcess:
        pass  # Looked at while it ended: the next look is right.
    return titles


def _seconds(folder: Path) -> tuple[float, int]:
    """From the first trial's start to the last one's end, and most trials at once."""
    [log] = folder.glob("results/*/events.jsonl")
    changes = [(event.time, 1 if isinstance(event, TrialStarted) else -1)
               for event, _ in read_events(log) if isinstance(event, TrialStarted | TrialEnded)]  # fmt: skip
    running = at_once = 0
    for _, change in changes:
        running += change
        at_once = max(at_once, running)
    return changes[-1][0] - changes[0][0], at_once


if __name__ == "__main__":
    main(100)
