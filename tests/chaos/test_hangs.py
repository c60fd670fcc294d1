"""A host hangs in a step, as with a GPU or a file system that answers no more."""

from __future__ import annotations

import time

import chaos_runs as runs
import pytest

from cluster.pace import Silent
from sweeps.record.folder import SweepFolder
from sweeps.report.status import read_status

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]
HANGING = '''
"""The toy, whose third step never ends, once. A step that lasts a second counts as one that hangs."""
import threading
from pathlib import Path
from cluster import timeouts
from trainables import toy
from trainables.toy import REQUIRES, check, fingerprint, need, prepare

timeouts.HANG_SECONDS = 1.0
HUNG = Path(__file__).with_name("hung")

class Pack(toy.ToyPack):
    def step(self, slots):
        if any(self._slots[slot].step == 2 for slot in slots) and not HUNG.exists():
            HUNG.touch()
            threading.Event().wait()
        return {slot: self._step(self._slots[slot], 0.0) for slot in slots}

def open_pack(base, data, cache):
    return Pack()
'''


def test_a_host_that_hangs_is_told_and_once_it_is_killed_its_trials_go_on(tmp_path):
    words = [*runs.TOY, *runs.variant(tmp_path, "hanging", HANGING), "scheduler.kind=fifo"]
    run = runs.start(tmp_path, "launch", *words)
    sweep = tmp_path / "results" / "toy"

    def silent() -> tuple[Silent, ...]:
        hosts = runs.record(sweep).hosts
        return hosts.silent if hosts is not None else ()

    runs.wait_for(lambda: silent() != (), run)  # it is said before it is written down
    (host,) = silent()
    assert f"(kill -9 {host.pid})" in run.err.read_text()
    assert any("may hang" in line for line in read_status(SweepFolder(sweep), time.time()).lines())
    runs.kill(host.pid)
    found = runs.assert_finished(run, sweep, f"sqlite:///{tmp_path}/mlflow.db")
    assert run.err.read_text().count("may hang") == 1
    assert found.hosts.silent == ()
