"""The files of a trial in the sweep's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sweeps.errors import BudgetUsedUp
from sweeps.record import digests, snapshots
from sweeps.record.folder import SweepFolder
from sweeps.record.snapshots import SavedTrial, size
from sweeps.tune.trial_files import FolderFiles
from trainables.objective import SortKey

ADAPTER = {"adapter_model.safetensors": b"weights"}
ROWS = {"row_losses": [1.0], "row_tokens": [2]}
BEST = SortKey(1.0, 1.0)


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """What the driver tells each trial."""
    (tmp_path / "sweep").mkdir()
    objective = {"metric": "eval_loss", "mode": "min"}
    return {"dir": str(tmp_path / "sweep"), "disk_bytes": None, "objective": objective, "parks": False}


def test_what_is_kept_is_what_is_read(settings):
    files, folder = FolderFiles(settings, "a"), Path(settings["dir"])
    adapter, digest = files.keep_best(3, ADAPTER, ROWS, BEST)
    files.keep_rows(3, ROWS)
    assert files.keep_snapshot(SavedTrial(step=3), b"state", BEST)
    assert json.loads((folder / "trials/a/rows-000003/eval_rows.json").read_bytes()) == {"step": 3} | ROWS
    assert (adapter, digest) == files.keep_best(3, ADAPTER, ROWS, BEST)
    assert adapter == "trials/a/best-000003"
    assert digest == digests.of_files(ADAPTER) == digests.of_folder(folder / adapter / "adapter")
    assert (files.snapshot(), files.saved().step) == (b"state", 3)


def test_budget_disk_holds(settings):
    files, folder = FolderFiles(settings, "a"), SweepFolder(Path(settings["dir"]))
    assert files.keep_snapshot(SavedTrial(step=3), b"x" * 1000, BEST)
    files = FolderFiles({**settings, "disk_bytes": size(folder.path / "trials")}, "a")
    assert not files.keep_snapshot(SavedTrial(step=5), b"x" * 2000, BEST)
    with pytest.raises(BudgetUsedUp, match=r"budget\.disk is used up"):
        files.keep_best(5, {"weights": b"x" * 2000}, ROWS, BEST)
    assert snapshots.read_snapshot(folder, "a")[0].step in (0, 3)
