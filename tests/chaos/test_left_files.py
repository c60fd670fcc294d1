"""A sweep that is interrupted leaves no temporary folder, of its own or of Ray's."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

import chaos_runs as runs
import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_sweep_leaves_no_temporary_folder(tmp_path, number):
    # Short: Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="qs") as place:
        run = runs.start(tmp_path, "launch", *runs.TOY, TMPDIR=place)
        sweep = tmp_path / "results" / "toy"
        runs.wait_for(lambda: (sweep / "events.jsonl").exists() and runs.reports(sweep) >= 1, run)
        assert sorted(path.name.split("-")[1] for path in Path(place).glob("qsweep-*")) == ["ray", "tune"]
        run.process.send_signal(number)
        assert run.wait() == 128 + number, run.err.read_text()
        assert list(Path(place).glob("qsweep-*")) == []
