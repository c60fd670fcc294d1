"""The processes of trials: as many as there are slots, and what they are given."""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from rich.console import Console

from sweeps.config import load
from sweeps.launch import launch
from sweeps.record import journal
from sweeps.report.live_table import Lines

SLOTS, TRIALS = 3, 20
SECRET = "canary-7f31"


class Looking(Lines):
    """A display that nobody sees, and that looks around whenever something is told."""

    def __init__(self, place: Path) -> None:
        super().__init__(Console(file=io.StringIO()), time.time(), time.time)
        self.place = place
        """The folder for temporary files."""
        self.folders = set[str]()
        """How the names of temporary folders began."""
        self.looked_at, self.with_secret = set[Path](), set[Path]()
        """Ray's own files."""

    def say(self, line: str) -> None:
        super().say(line)
        self.folders.update(path.name[:11] for path in self.place.glob("qsweep-*"))
        # While Ray is there: its folder goes with it.
        if ray.is_initialized():
            session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
            self.looked_at.update(path for path in session.rglob("*") if path.is_file())
            self.with_secret.update(filter(holds_secret, self.looked_at))


def holds_secret(path: Path) -> bool:
    try:
        return SECRET.encode() in path.read_bytes()
    except OSError:
        return False  # A file that went meanwhile.


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_slots_keep_their_processes_and_nothing_is_left_or_told_to_others(tmp_path, empty_database, monkeypatch):
    add, asked = RayActorManager.add_actor, []

    def counted(*words, **more):
        asked.append(add(*words, **more))
        return asked[-1]

    shutil.copy(empty_database, tmp_path / "mlflow.db")
    # Short: Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="qs") as place:
        monkeypatch.setattr(RayActorManager, "add_actor", counted)
        monkeypatch.setattr(tempfile, "tempdir", place)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.chdir(tmp_path)
        sweep = load.load("toy", [f"cluster.slots_per_host={SLOTS}", f"budget.trials={TRIALS}"], tmp_path)
        monkeypatch.setattr(journal, "ALIVE_SECONDS", 0.0)
        seen = Looking(Path(place))
        record = launch(sweep, lambda _folder: nullcontext(seen)).record
        assert list(Path(place).glob("qsweep-*")) == []
    # A slot has one process for its trials, though trials end before the processes of the others are there.
    assert (len(record.trials), len(asked)) == (TRIALS, SLOTS)
    assert record.lived_until > 0.0, "the log says that the driver lives while nothing else happens"
    assert seen.folders == {"qsweep-ray-", "qsweep-tune"}
    assert seen.looked_at
    assert seen.with_secret == set()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and holds_secret(path)] == []
