"""The processes of trials: as many as there are slots, and what they are given."""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from rich.console import Console

from sweeps.config import load
from sweeps.launch import launch
from sweeps.report.progress import Lines
from sweeps.report.result import Result

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
SLOTS = 3


@pytest.fixture
def home(tmp_path, monkeypatch, empty_database):
    """The current folder, with an empty tracking database: making one takes seconds."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines() -> Lines:
    """A display that nobody sees."""
    return Lines(Console(file=io.StringIO()), time.time(), time.time)


def run(home, *words, shown=None) -> Result:
    """A sweep of the toy in this process."""
    shown = shown or lines()
    return launch(load.load("toy", [f"cluster.slots_per_host={SLOTS}", *words], home), lambda _folder: shown)


def test_a_slot_keeps_its_process_for_one_trial_after_another(home, monkeypatch):
    asked = []
    add = RayActorManager.add_actor

    def counted(*words, **more):
        asked.append(add(*words, **more))
        return asked[-1]

    monkeypatch.setattr(RayActorManager, "add_actor", counted)
    # Trials end before the processes of the others are there.
    assert len(run(home, "budget.trials=20").record.trials) == 20
    assert len(asked) == SLOTS


def test_no_file_is_left_beside_the_sweep(home, monkeypatch):
    # Short: Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="qs") as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        folders: set[str] = set()
        shown = lines()
        monkeypatch.setattr(
            shown, "say", lambda _line: folders.update(p.name[:11] for p in Path(place).glob("qsweep-*"))
        )
        run(home, "budget.trials=4", shown=shown)
        assert folders == {"qsweep-ray-", "qsweep-tune"}
        assert list(Path(place).glob("qsweep-*")) == []


def test_credentials_of_the_driver_are_in_no_file_and_its_words_in_no_list_of_jobs(home, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-7f31")
    found: list[Path] = []
    looked_at: set[Path] = set()
    commands, shown = set(), lines()
    show = shown.say

    def say(line: str) -> None:
        # While Ray is there: its folder goes with it.
        if ray.is_initialized():
            [job] = ray._private.state.jobs()
            commands.add(job["Entrypoint"])
            session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
            looked_at.update(path for path in session.rglob("*") if path.is_file())
            found.extend(filter(holds_canary, looked_at))
        show(line)

    monkeypatch.setattr(shown, "say", say)
    run(home, "budget.trials=4", shown=shown)
    assert looked_at
    assert commands == {"qsweep"}
    found.extend(path for path in home.rglob("*") if path.is_file() and holds_canary(path))
    assert found == []


def holds_canary(path: Path) -> bool:
    try:
        return b"canary-7f31" in path.read_bytes()
    except OSError:
        return False  # A file that went meanwhile.
