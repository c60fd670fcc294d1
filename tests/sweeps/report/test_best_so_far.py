"""All that names the best trial names the same one, also while trials are interrupted; all lists have one order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import report_sweeps
from sweep_events import answered, begun, ended, reported, started
from sweep_files import toy
from typer.testing import CliRunner

import qsweep as qs
from sweeps.cli import app
from sweeps.config.load import LoadedSweep
from sweeps.record.events import Event, SweepEnded, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.spent import spent
from sweeps.report import page_file, status, summary, trial_tables
from sweeps.report.notifying import message
from sweeps.report.result import Result

BY_HAND: list[Event] = [
    answered(trial_key="t02"),
    ended("t02", TrialState.STOPPED, "stopped by a person", by_person_or_budget=True),
]
TRIALS: list[Event] = [
    begun(),
    *(started(f"t0{number}", number, r=8) for number in range(5)),
    reported("t00", 2, 5.75),
    ended("t00", TrialState.DIVERGED),
    reported("t01", 2, 5.625),
    reported("t02", 2, 5.5),
    *BY_HAND,
    reported("t03", 2, 5.5625),
    reported("t03", 6, 1.5),
    reported("t04", 2, 5.625),
    reported("t04", 6, 1.75),
]
PAUSED = [ended(f"t0{number}", TrialState.PAUSED, "interrupted") for number in (1, 3, 4)]
INTERRUPTED = [*TRIALS, *PAUSED, SweepEnded(time=50.0, reason="interrupted")]
FINISHED = [*TRIALS, *(ended(f"t0{n}", TrialState.STOPPED) for n in (1, 3, 4)), SweepEnded(time=50.0, reason="budget")]


def launched(folder: SweepFolder) -> Result:
    """What `launch` has of the sweep at its end."""
    record = status.read_status(folder, 60.0).record
    stopped_by = 2 if record.ended is not None and record.ended.reason == "interrupted" else None
    return Result(
        sweep_id="x-1", folder=folder.path, record=record, stopped_by=stopped_by, failure=None,
        is_ray_left_behind=False, undelivered=0, are_runs_gone=False, refused=0, spent=spent(record, 81),
        is_folder_gone=False, separation=None, parent_run=None, experiment_id=None, run_ids={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("events", "so_far", "order"),
    [(INTERRUPTED, True, "t03 t04 t01 t00 t02"), (FINISHED, False, "t03 t04 t02 t01 t00"), (TRIALS, True, None)],
)
def test_every_command_file_and_call_names_the_same_best_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], events: list[Event], so_far: bool, order: str | None
) -> None:
    folder = report_sweeps.write(tmp_path / "results" / "x", events)
    result, sweep = launched(folder), qs.load(str(folder.path))

    def document(*words: str) -> tuple[str, dict[str, Any]]:
        done = CliRunner().invoke(app, [*words, str(folder.path), "--json"])
        assert done.exit_code == 0, done.output
        return done.stderr, json.loads(done.stdout.splitlines()[-1])

    summary.show(LoadedSweep(*toy()), result)
    text = "".join(capsys.readouterr())
    (told, compared), (_, stands) = document("compare"), document("status")
    answer = f"best{' so far' if so_far else ''}: t03, eval_loss 1.5000 at step 6"
    page = page_file.read_page(folder, 60.0)
    for said in (text, told):
        assert answer in said.splitlines()
        assert so_far is ("so far" in said)
    assert page.best == sweep.lines[0] == answer
    assert (
        f"  best      t03, eval_loss 1.5000 at step 6{', so far' * so_far}" in status.read_status(folder, 60.0).lines()
    )
    kept = f"the best trial's folder{' so far' * so_far}"
    assert f"{kept}:\n" in text and page.kept is not None and page.kept[0] == kept
    for found in (result.as_json()["best"], stands["best"], compared["best"]):
        assert (found["trial_key"], found.get("so_far", False)) == ("t03", so_far)
    assert sweep.best.name == message("end", "x-1", "x", result.record)["trial"] == "t03"
    names = order or "t03 t04 t01 t00 t02"
    assert (
        " ".join(trial.name for trial in sweep.trials) == " ".join(each["name"] for each in compared["trials"]) == names
    )
    assert [row.trial for row in page.rows if row.is_best] == ["t03"] and " ".join(r.trial for r in page.rows) == names
    assert trial_tables.markdown(result.record, result.selection).startswith(f"**best{' so far' * so_far}: t03, ")
    assert result.exit_code == (130 if result.stopped_by else 0)
