"""What a test that disturbs sweeps finds in its folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import chaos_runs as runs
import pytest


@pytest.fixture(autouse=True)
def ready(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty databases of MLflow, which take seconds to make, and the trainable of `chaos_runs.TOY`."""
    if request.node.get_closest_marker("ray") is None:
        return
    for name in ("mlflow.db", "server.db"):
        shutil.copy(request.getfixturevalue("empty_database"), tmp_path / name)
    runs.variant(tmp_path, "paced", runs.PACED)
    # Also for a sweep that is started in another folder than the test's own.
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    """No sweep outlives its test, also when the test fails: one that is held would take the machine's time for ever."""
    yield
    runs.kill_started()
