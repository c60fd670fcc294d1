"""A sweep's folder that an earlier version wrote, and interrupted, resumes to what that version made of it.

`tests/data/folder_before_rooms/small` is such a folder: one slot, so that the order of the trials is known; two trials
stopped by the scheduler, one completed, one interrupted between two rungs. `expected.json` is what that version's own
`qsweep resume --json` printed of it, without times and run ids. Only the place of the folder was changed in the files.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import chaos_runs as runs
import pytest

DATA = Path(__file__).parents[1] / "data" / "folder_before_rooms"
PLACE = "/where/it/was"


@pytest.fixture
def sweep(tmp_path: Path, empty_database: Path) -> Path:
    """The folder, as if it had been launched in the test's folder."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    shutil.copytree(DATA / "small", tmp_path / "results" / "small")
    for file in (tmp_path / "results").rglob("*.json*"):
        file.write_text(file.read_text().replace(PLACE, str(tmp_path)))
    return tmp_path / "results" / "small"


def without_times(answer: dict[str, Any]) -> dict[str, Any]:
    """What must be equal, whenever and wherever the sweep goes on."""
    best = {name: value for name, value in answer["best"].items() if name != "run_id"}
    spent = {name: value for name, value in answer["spent"].items() if name != "seconds"}
    rest = {name: value for name, value in answer.items() if name not in ("dir", "parent_run")}
    return {**rest, "best": best, "spent": spent}


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_an_older_folder_resumes_to_the_same_result(sweep: Path, tmp_path: Path) -> None:
    run = runs.start(tmp_path, "resume", str(sweep))
    assert run.process.wait(800) == 0, run.err.read_text()
    assert without_times(run.answer()) == json.loads((DATA / "expected.json").read_text())
