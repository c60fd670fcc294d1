"""A sweep's folder that an earlier version wrote, and interrupted, resumes to what that version made of it.

`tests/data/folder_before_rooms/small` is such a folder: one slot, so that the order of the trials is known; one trial
completed, and one interrupted before its first report, which stops it when the first one's reports are known.
`expected.json` is what that version's own `qsweep resume --json` printed of it, without times and run ids. Only the
place of the folder was changed, and the confidence and words of the comparisons: it counts more pairs now.

The trial had reported nothing yet for a reason: of one that had, that version counted its last loss at an earlier rung
a second time once it was resumed, and so stopped trials that a sweep without an interruption goes on with.
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


def as_said_then(now: Any, then: Any) -> Any:
    """What is said of a sweep now, without the keys that an earlier version did not have."""
    if isinstance(now, dict) and isinstance(then, dict):
        return {name: as_said_then(value, then[name]) for name, value in now.items() if name in then}
    if isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        return [as_said_then(*pair) for pair in zip(now, then, strict=True)]
    return now


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_an_older_folder_resumes_to_the_same_result(sweep: Path, tmp_path: Path) -> None:
    run = runs.start(tmp_path, "resume", str(sweep))
    assert run.process.wait(800) == 0, run.err.read_text()
    then = json.loads((DATA / "expected.json").read_text())
    assert as_said_then(run.answer(), then) == then
