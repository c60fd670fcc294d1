"""Files of trials whose processes are on other nodes: one process at a time may write them."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from sweeps.errors import BudgetUsedUp
from sweeps.record import digests, snapshots
from sweeps.record.folder import SweepFolder
from sweeps.record.snapshots import SavedTrial, size
from sweeps.tune.trial_files import FolderFiles, FolderKeeper, Holder, Replaced, holder
from trainables.objective import Standing

DEADLINE = 60.0
ADAPTER = {"adapter_model.safetensors": b"weights"}
ROWS = {"row_losses": [1.0], "row_tokens": [2]}
BEST = Standing(1.0, 1.0)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """What the driver tells each trial."""
    (tmp_path / "sweep").mkdir()
    objective = {"metric": "eval_loss", "mode": "min"}
    return {"dir": str(tmp_path / "sweep"), "disk_bytes": None, "objective": objective, "parks": False}


@pytest.fixture
def holders(tmp_path: Path) -> Path:
    (tmp_path / "holders").mkdir()
    return tmp_path / "holders"


@pytest.fixture
def keeper(settings, holders) -> FolderKeeper:
    return FolderKeeper(settings, str(holders))


def save(keeper: FolderKeeper, process: str, step: int, snapshot: bytes = b"state") -> bool:
    return keeper.call("a", process, "keep_snapshot", SavedTrial(step=step), snapshot, BEST)


def test_what_is_kept_from_another_node_is_what_is_kept_here(keeper, settings):
    keeper.take_up("a", "p1", "node", 1)
    adapter = keeper.call("a", "p1", "keep_best", 3, ADAPTER, ROWS, BEST)
    keeper.call("a", "p1", "keep_rows", 3, ROWS)
    assert save(keeper, "p1", 3)
    here = FolderFiles(settings, "a")
    rows = Path(settings["dir"]) / "trials/a/rows-000003/eval_rows.json"
    assert json.loads(rows.read_bytes()) == {"step": 3} | ROWS
    assert adapter == "trials/a/best-000003" == here.keep_best(3, ADAPTER, ROWS, BEST)
    assert keeper.call("a", "p1", "digest", adapter) == here.digest(adapter) == digests.of_files(ADAPTER)
    assert digests.of_folder(Path(settings["dir"]) / adapter / "adapter") == digests.of_files(ADAPTER)
    assert keeper.call("a", "p1", "snapshot") == here.snapshot() == b"state"
    assert keeper.call("a", "p1", "saved") == here.saved()
    assert here.saved().step == 3


@pytest.mark.parametrize("is_anew", [False, True], ids=["same keeper", "keeper that Ray has started anew"])
def test_a_process_that_was_cut_off_and_comes_back_writes_nothing(keeper, settings, holders, is_anew):
    keeper.take_up("a", "cut-off", "node-1", 1)
    assert save(keeper, "cut-off", 3)
    keeper.take_up("a", "successor", "node-2", 2)
    if is_anew:
        keeper = FolderKeeper(settings, str(holders))
    with pytest.raises(Replaced, match="another process has the trial a now"):
        save(keeper, "cut-off", 9)
    with pytest.raises(Replaced):
        keeper.call("a", "cut-off", "keep_best", 9, ADAPTER, ROWS, BEST)
    assert FolderFiles(settings, "a").saved().step == 3
    assert save(keeper, "successor", 5)
    assert holder(holders, "a") == Holder("successor", "node-2", 2)


def test_a_process_that_starts_late_does_not_take_the_trial_from_a_later_attempt(keeper, settings):
    """Tune gave the trial a process that had become free, while the first one still started."""
    keeper.take_up("a", "second", "node-2", 2)
    with pytest.raises(Replaced):
        keeper.take_up("a", "first", "node-1", 1)
    assert save(keeper, "second", 3)
    keeper.take_up("a", "second", "node-2", 2)  # again, since its answer was lost
    assert save(keeper, "second", 5)


def test_a_successor_sees_what_its_predecessor_was_writing(keeper, settings, monkeypatch):
    keeper.take_up("a", "p1", "node-1", 1)
    writes, may_end = threading.Event(), threading.Event()
    keep = FolderFiles.keep_snapshot

    def slowly(self, *words: Any) -> bool:
        writes.set()
        assert may_end.wait(DEADLINE)
        return keep(self, *words)

    monkeypatch.setattr(FolderFiles, "keep_snapshot", slowly)
    first = threading.Thread(target=save, args=(keeper, "p1", 3))
    first.start()
    assert writes.wait(DEADLINE)
    seen: list[int] = []

    def succeed() -> None:
        keeper.take_up("a", "p2", "node-2", 2)
        seen.append(keeper.call("a", "p2", "saved").step)

    second = threading.Thread(target=succeed)
    second.start()
    keeper.take_up("b", "p3", "node-3", 3)  # Other trials do not wait.
    assert seen == []
    may_end.set()
    first.join(DEADLINE)
    second.join(DEADLINE)
    assert seen == [3]


def test_budget_disk_holds_for_trials_of_other_nodes(keeper, settings, holders):
    keeper.take_up("a", "p1", "node", 1)
    assert save(keeper, "p1", 3, b"x" * 1000)
    limit = size(Path(settings["dir"]) / "trials")
    keeper = FolderKeeper({**settings, "disk_bytes": limit}, str(holders))
    assert not save(keeper, "p1", 5, b"x" * 2000)
    with pytest.raises(BudgetUsedUp, match=r"budget\.disk is used up"):
        keeper.call("a", "p1", "keep_best", 5, {"weights": b"x" * 2000}, ROWS, BEST)
    assert snapshots.read(SweepFolder(Path(settings["dir"])), "a")[0].step in (0, 3)
