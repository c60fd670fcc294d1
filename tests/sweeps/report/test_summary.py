"""What is printed at a sweep's end: nothing that only a whole sweep can tell is told of one that was interrupted."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweep_events import begun, ended, record, reported, started
from sweep_files import toy

from sweeps.config.load import LoadedSweep
from sweeps.errors import SweepError
from sweeps.record.events import Event, SweepEnded, SweepPlanned, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.record.spent import spent
from sweeps.report import summary, ui_links
from sweeps.report.result import Result

PLAN = SweepPlanned(time=0.0, steps=100, seconds=10.0)
BEGINNING: list[Event] = [begun(), PLAN, started("a"), reported("a", 9, 1.25)]
INTERRUPTED = [*BEGINNING, ended("a", TrialState.PAUSED, "interrupted")]
COMPLETED = [*BEGINNING, ended("a", TrialState.COMPLETED), SweepEnded(time=9.0, reason="finished")]
Told = Callable[..., str]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """What is printed of a sweep with these events that ended in this way."""

    def printed(events: list[Event], folder: str = "/results/x", **end: Any) -> str:
        whole = record(events)
        result: dict[str, Any] = {
            "sweep_id": "x-1", "folder": Path(folder), "record": whole, "spent": spent(whole, 81),
            "stopped_by": None, "failure": None, "is_ray_left_behind": False, "is_folder_gone": False,
            "undelivered": 0, "are_runs_gone": False, "refused": 0, "separation": None,
            "parent_run": None, "experiment_id": None, "run_ids": {},
        }  # fmt: skip
        summary.show(LoadedSweep(*toy()), Result(**result | end))
        out, err = capsys.readouterr()
        assert "best" in out and "best: " not in err and "error: " not in out
        return out + err

    return printed


def test_an_interrupted_sweep_tells_the_best_so_far_and_no_plan(told: Told) -> None:
    text = told(INTERRUPTED, "/results/my x", stopped_by=signal.SIGINT)
    assert "best so far: t00, eval_loss 1.2500 at step 9\n" in text
    assert "no trial completed" not in text and "it took" not in text
    assert "qsweep resume '/results/my x'\n" in text
    assert "best: no trial that may win has reported yet" in told([begun(), started("a")], stopped_by=signal.SIGINT)
    text = told(INTERRUPTED, is_folder_gone=True, failure="the folder is gone")
    assert "best: none: the sweep's folder is gone" in text and "resume" not in text


def test_a_whole_sweep_tells_its_best_how_far_the_plan_was_off_and_its_repeats(told: Told) -> None:
    again = [started(key, number).model_copy(update={"repeats": "a"}) for number, key in ((1, "b"), (2, "c"))]
    text = told([*COMPLETED, *again])
    assert "trials    1 and 2 repeats (2 RUNNING, 1 COMPLETED)\n" in text
    assert "best: t00, eval_loss 1.2500 at step 9" in text
    assert "steps     9 (planned: 100, it took 91% less)\n" in told(COMPLETED)
    # The toy's files are no adapters that can be promoted.
    assert "the best trial's folder:\n  /results/x/trials/a\n" in text and "adapter:" not in text


def test_the_time_against_the_plan_says_how_many_starts_it_counts(told: Told) -> None:
    text = told([*INTERRUPTED, begun(9.0), *COMPLETED[len(BEGINNING) :]])
    assert re.search(r"planned: 10 s, .*, 2 starts counted\)", text)
    assert "starts counted" not in told(COMPLETED)


def test_what_mlflow_lacks_refuses_or_has_lost_is_told_with_the_way_out(told: Told) -> None:
    uri = toy()[0].tracking.uri
    text = told(COMPLETED, undelivered=2, refused=1)
    rest = f"MLflow ({uri}) lacks 2 events; send the rest, there or (--tracking-uri URI) elsewhere, with:"
    assert f"{rest}\n  {summary.command('qsweep')} resume /results/x\n" in text
    assert f"MLflow ({uri}) refused 1 event; /results/x/events.jsonl has all events\n" in text
    text = told(COMPLETED, undelivered=9, are_runs_gone=True)
    gone = f"MLflow ({uri}) no longer has runs of the sweep; send all events again with:"
    assert f"{gone}\n  {summary.command('qsweep')} resume /results/x --resend\n" in text
    assert "lacks" not in text


@pytest.mark.parametrize(
    ("server", "base"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://me:se%2Fcret@host/mlflow/", "https://host/mlflow"),
        ("http://me:***@host", "http://host"),
    ],
)
def test_a_link_into_mlflows_ui_begins_with_the_server_alone(server: str, base: str) -> None:
    assert ui_links.experiments(server) == f"{base}/#/experiments?workflowType=machine_learning"
    view = f"{base}/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=x-1"
    assert ui_links.saved_view(server, "7", "x-1") == view


def test_the_folder_keeps_what_a_driver_prints_and_once_where_it_prints_there(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    with pytest.raises(SweepError), summary.displays(0.0)(folder) as display:
        display.say("the first line")
        raise SweepError("no host at http://me:secret@there")
    kept = folder.driver_log.read_text()
    assert kept.startswith(f"sweep folder: {tmp_path}\n") and " the first line\n" in kept
    assert kept.endswith(" error: no host at http://me:***@there\n")
    program = """
import sys
from pathlib import Path
from sweeps.record.folder import SweepFolder
from sweeps.report import summary
with summary.displays(0.0)(SweepFolder(Path(sys.argv[1]))) as display:
    display.say("the second line")
"""
    with folder.driver_log.open("ab") as log:
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], stderr=log, check=True)
    assert folder.driver_log.read_text().count("the second line\n") == 1


def test_a_log_that_cannot_be_written_ends_no_sweep(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.driver_log.mkdir()
    with summary.displays(0.0)(folder) as display:
        display.say("a line")
