"""The processes of trials: as many as there are slots, and what they are given."""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from rich.console import Console

from sweeps.config import load
from sweeps.launch import launch
from sweeps.record import journal
from sweeps.report.live_table import Lines

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
SLOTS, TRIALS = 3, 20
SECRET = "canary-7f31"


@dataclass
class Seen:
    """What was seen of a sweep of the toy in this process, whose environment had a secret."""

    home: Path
    """The folder that it was launched from."""
    place: Path
    """The folder for temporary files."""
    trials: int = 0
    lived_until: float = 0.0
    """When its log last said that its driver lives."""
    processes: list[object] = field(default_factory=list)
    """Those that Tune asked for."""
    folders: set[str] = field(default_factory=set)
    """How the names of its temporary folders began."""
    left: list[Path] = field(default_factory=list)
    """The temporary folders that were there after it."""
    commands: set[str] = field(default_factory=set)
    """What Ray's list of jobs said of it."""
    looked_at: set[Path] = field(default_factory=set)
    """Ray's own files."""
    with_secret: list[Path] = field(default_factory=list)


class Looking(Lines):
    """A display that nobody sees, and that looks around whenever something is told."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(Console(file=io.StringIO()), time.time(), time.time)
        self.seen = seen

    def say(self, line: str) -> None:
        super().say(line)
        self.seen.folders.update(path.name[:11] for path in self.seen.place.glob("qsweep-*"))
        # While Ray is there: its folder goes with it.
        if ray.is_initialized():
            [job] = ray._private.state.jobs()
            self.seen.commands.add(job["Entrypoint"])
            session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
            self.seen.looked_at.update(path for path in session.rglob("*") if path.is_file())
            self.seen.with_secret.extend(filter(holds_secret, self.seen.looked_at))


def holds_secret(path: Path) -> bool:
    try:
        return SECRET.encode() in path.read_bytes()
    except OSError:
        return False  # A file that went meanwhile.


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Seen]:
    add, home = RayActorManager.add_actor, tmp_path_factory.mktemp("home")
    shutil.copy(empty_database, home / "mlflow.db")
    # Short: Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="qs") as place, pytest.MonkeyPatch.context() as patch:
        found = Seen(home, Path(place))

        def counted(*words, **more):
            found.processes.append(add(*words, **more))
            return found.processes[-1]

        patch.setattr(RayActorManager, "add_actor", counted)
        patch.setattr(tempfile, "tempdir", place)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.chdir(home)
        sweep = load.load("toy", [f"cluster.slots_per_host={SLOTS}", f"budget.trials={TRIALS}"], home)
        patch.setattr(journal, "QUIET_SECONDS", 0.0)
        record = launch(sweep, lambda _folder: nullcontext(Looking(found))).record
        found.trials, found.lived_until = len(record.trials), record.lived_until
        found.left = list(Path(place).glob("qsweep-*"))
        yield found


def test_a_slot_keeps_its_process_for_one_trial_after_another(seen):
    # Trials end before the processes of the others are there.
    assert seen.trials == TRIALS
    assert len(seen.processes) == SLOTS


def test_the_log_says_that_the_driver_lives_while_nothing_else_happens(seen):
    assert seen.lived_until > 0.0


def test_no_file_is_left_beside_the_sweep(seen):
    assert seen.folders == {"qsweep-ray-", "qsweep-tune"}
    assert seen.left == []


def test_credentials_of_the_driver_are_in_no_file_and_its_words_in_no_list_of_jobs(seen):
    assert seen.looked_at
    assert seen.commands == {"qsweep"}
    assert seen.with_secret == []
    assert [path for path in seen.home.rglob("*") if path.is_file() and holds_secret(path)] == []
