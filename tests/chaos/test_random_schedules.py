"""Several faults in a row in one sweep, at random; all of a schedule follows from its seed, but not the timing.

Run by `make chaos-long`. QSWEEP_CHAOS_SEED is the first seed, QSWEEP_CHAOS_SCHEDULES the number of schedules.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import chaos_runs as runs
import mlflow_servers
import psutil
import pytest

FIRST = int(os.environ.get("QSWEEP_CHAOS_SEED", "0"))
COUNT = int(os.environ.get("QSWEEP_CHAOS_SCHEDULES", "30"))
pytestmark = [
    pytest.mark.chaos_long, pytest.mark.ray, pytest.mark.timeout(1200), pytest.mark.usefixtures("hears_signals"),
]  # fmt: skip
WORDS = [*runs.TOY, "scheduler.kind=fifo", "training.snapshot_every=2", "cluster.hosts=2", "cluster.slots_per_host=1"]
ENVIRONMENT = {"QSWEEP_DRAIN_SECONDS": "10"}
"""A driver that is interrupted while the server is down does not wait for long."""
MOST_HOST_LOSSES = 2
"""A third death in a row would rightly fail the trial."""


@dataclass
class Disturbed:
    """A sweep in the middle of its faults."""

    folder: Path
    run: runs.Run
    server: mlflow_servers.Server
    rng: random.Random
    host_losses: int = 0

    @property
    def sweep(self) -> Path:
        return self.folder / "results" / "toy"

    def go_on(self) -> None:
        self.run = runs.start(self.folder, "resume", "results/toy", **ENVIRONMENT)

    def lose(self, name: str) -> None:
        found = runs.ray_processes(self.run, name)
        if found:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                runs.kill(self.rng.choice(sorted(found)))


def lose_host(sweep: Disturbed) -> None:
    if sweep.host_losses < MOST_HOST_LOSSES:
        sweep.host_losses += 1
        sweep.lose("Host")


def lose_driver(sweep: Disturbed) -> None:
    runs.kill(sweep.run.process.pid)
    sweep.go_on()


def interrupt(sweep: Disturbed) -> None:
    sweep.run.process.send_signal(sweep.rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
    sweep.run.wait()
    sweep.go_on()


FAULTS: dict[str, Callable[[Disturbed], None]] = {
    "lose host": lose_host,
    "lose broker": lambda sweep: sweep.lose("Broker"),
    "lose trial process": lambda sweep: sweep.lose("TrialStub"),
    "lose driver": lose_driver,
    "interrupt": interrupt,
    "lose server": lambda sweep: sweep.server.kill(),
    "server comes back": lambda sweep: sweep.server.start(),
}


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
def test_no_schedule_of_faults_loses_or_doubles_anything(tmp_path, seed):
    rng = random.Random(seed)
    faults = rng.choices(list(FAULTS), k=rng.randint(2, 5))
    print(f"seed {seed}: {', '.join(faults)}")
    with mlflow_servers.server(tmp_path) as server:
        run = runs.start(tmp_path, "launch", *WORDS, f"tracking.uri={server.uri}", **ENVIRONMENT)
        sweep = Disturbed(tmp_path, run, server, rng)
        runs.wait_for((sweep.sweep / "config.json").exists, run)
        for fault in faults:
            wanted = runs.reports(sweep.sweep) + rng.randint(0, 3)
            runs.wait_for(lambda: sweep.run.process.poll() is not None or runs.reports(sweep.sweep) >= wanted)  # noqa: B023
            threading.Event().wait(rng.uniform(0, 1))
            if sweep.run.process.poll() is None:
                FAULTS[fault](sweep)
        server.start()
        # A sweep that waited in vain for its server, or for which a fault came too early, is gone on with.
        for _ in range(3):
            if sweep.run.wait() == 0:
                break
            sweep.go_on()
        runs.assert_finished(sweep.run, sweep.sweep, server.uri)
