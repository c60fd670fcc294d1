"""The processes of trials: as many as there are slots, and what they are given."""

from __future__ import annotations

import io
import shutil
import time

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from rich.console import Console

from sweeps import load
from sweeps.launch import Result, launch
from sweeps.progress import Lines

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
SLOTS = 3


@pytest.fixture
def home(tmp_path, monkeypatch, empty_database):
    """The current folder, with an empty tracking database: making one takes seconds."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(home, *words) -> Result:
    """A sweep of the toy in this process."""
    shown = Lines(Console(file=io.StringIO()), time.time(), time.time)
    return launch(load.load("toy", [f"cluster.slots_per_host={SLOTS}", *words], home), lambda _folder: shown)


def test_a_slot_keeps_its_process_for_one_trial_after_another(home, monkeypatch):
    asked = []
    add = RayActorManager.add_actor
    monkeypatch.setattr(
        RayActorManager, "add_actor", lambda *words, **more: asked.append(add(*words, **more)) or asked[-1]
    )
    # Trials end before the processes of the others are there.
    assert len(run(home, "budget.trials=20").record.trials) == 20
    assert len(asked) == SLOTS
