"""`qsweep status --watch` of a sweep of this machine, where no terminal is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import report_sweeps
from sweep_events import begun, started
from typer.testing import CliRunner

from sweeps.cli import app
from sweeps.record.folder import EventLog, SweepFolder
from sweeps.report import status


def test_each_view_that_has_news_is_printed_until_the_sweep_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"budget": {"trials": 4}, "tracking": {"uri": "sqlite:///x.db"}}
    log = EventLog(report_sweeps.write(tmp_path, [begun()], config).events)
    left = [False, True, True]

    def is_driven(_folder: SweepFolder) -> bool:
        if len(left) == 1:
            log.append(started("aaa", 0, r=8))
        return left.pop() if left else False

    monkeypatch.setattr(status, "is_driven", is_driven)
    monkeypatch.setattr("sweeps.cli.status.TURN_SECONDS", 0.0)
    done = CliRunner().invoke(app, ["status", str(tmp_path), "--watch", "--json"])
    log.close()
    assert done.exit_code == 0, done.output
    views = [line for line in done.stderr.splitlines() if line.startswith("x-1: ")]
    assert [view.partition(" ")[2].partition(",")[0] for view in views] == ["running", "not running"]
    answer = json.loads(done.stdout)
    assert (answer["state"], answer["trials"]) == ("LOST", 1)
