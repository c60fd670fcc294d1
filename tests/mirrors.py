"""Sweeps without Ray whose folders are mirrored on an object store, as a driver would."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sweep_events import begun, ended, reported, started

from sweeps.mirror import keeping, timeouts
from sweeps.mirror.keeping import Mirror, mirrored
from sweeps.mirror.manifest import read_manifest
from sweeps.mirror.store import Store
from sweeps.record import folder as folders
from sweeps.record.events import TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal

DEADLINE_SECONDS = 60.0
SWEEP = "toy-1"


def until(condition) -> None:
    """Waits until something is true."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        threading.Event().wait(0.02)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks often."""
    monkeypatch.setattr(timeouts, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(timeouts, "LONGEST_PAUSE_SECONDS", 0.1)


@dataclass
class Drive:
    """A driver of a sweep."""

    folder: SweepFolder
    journal: Journal
    mirror: Mirror | None
    said: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def report(self, key: str, step: int) -> None:
        """A trial reports with its rows, its best adapter and a snapshot, as `TrialStub` and the driver do it."""
        if key not in self.journal.record.trials:
            self.journal.add(started(key, len(self.journal.record.trials)))
        self.folder.keep(key, "rows", step, {"eval_rows.json": b"{}"})
        adapter = {"adapter/adapter_model.safetensors": f"{key} {step}".encode() * step, "eval_rows.json": b"{}"}
        best = self.folder.keep(key, "best", step, adapter)
        self.snapshot(key, step)
        place = str(best.relative_to(self.folder.path))
        self.journal.add(reported(key, step, 1000.0 - step).model_copy(update={"adapter": place}))
        self.folder.prune_adapters(key, best)

    def snapshot(self, key: str, step: int) -> None:
        """A trial keeps a snapshot."""
        self.folder.keep(key, "snapshot", step, {"snapshot.bin": b"s" * step, "progress.json": b"{}"})
        self.folder.drop_snapshots(key, but=2)

    def finish(self, key: str) -> None:
        """The trial is over."""
        self.journal.add(ended(key, TrialState.COMPLETED))
        self.folder.drop_snapshots(key)

    def settle(self) -> None:
        """Waits until the mirror has all events, and with them the files that they name."""
        store = Store(str(self.folder.mirror()))
        until(lambda: (found := read_manifest(store)) and found[0].log_bytes == self.journal.log.length)

    def drain(self, seconds: float = DEADLINE_SECONDS) -> str | None:
        """What the mirror lacks in the end."""
        assert self.mirror is not None
        return self.mirror.drain(seconds, lambda: False).behind


@contextmanager
def driving(folder: SweepFolder) -> Iterator[Drive]:
    """Drives a sweep."""
    with folders.locked(folder):
        drive = Drive(folder, Journal(folder), None)
        with mirrored(folder, drive.journal, SWEEP, drive.said.append, drive.ended.append) as drive.mirror:
            if drive.journal.record.started is None:
                drive.journal.add(begun())
            yield drive


def drive(folder: SweepFolder, *steps: int) -> None:
    """Drives a sweep whose trial k1 reports after so many steps, until its mirror has all of it."""
    with driving(folder) as driver:
        for step in steps:
            driver.report("k1", step)
        assert driver.drain() is None


def created(storage: str, machine: Path, monkeypatch: pytest.MonkeyPatch, name: str = "toy") -> SweepFolder:
    """A new sweep on a machine that has nothing else."""
    machine.mkdir(exist_ok=True)
    monkeypatch.chdir(machine)
    return keeping.create(storage, name, {**folders.stamp(), "sweep_id": SWEEP, "config": {}})


def files(folder: Path) -> dict[str, bytes]:
    """What a sweep's folder holds and its mirror should."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "mirror.json" and path.suffix != ".lock"
    }
