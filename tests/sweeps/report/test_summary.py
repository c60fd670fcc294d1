"""What is printed at a sweep's end: nothing that only a whole sweep can tell is told of one that was interrupted."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from sweep_events import begun, ended, record, reported, started
from sweep_files import toy

from sweeps.config.load import Sweep
from sweeps.record.events import Event, SweepPlanned, TrialState
from sweeps.record.spent import spent
from sweeps.report import summary
from sweeps.report.result import Result

BEGINNING: list[Event] = [
    begun(),
    SweepPlanned(time=0.0, steps=100, seconds=10.0),
    started("a"),
    reported("a", 9, 1.25),
]
INTERRUPTED = [*BEGINNING, ended("a", TrialState.PAUSED, "interrupted")]
COMPLETED = [*BEGINNING, ended("a", TrialState.COMPLETED)]


def told(
    capsys: pytest.CaptureFixture[str],
    events: list[Event],
    stopped_by: int | None = None,
    is_gone: bool = False,
    undelivered: int = 0,
    refused: int = 0,
    are_runs_gone: bool = False,
    folder: str = "/results/x",
) -> str:
    whole = record(events)
    result = Result(
        sweep_id="x-1",
        folder=Path(folder),
        record=whole,
        stopped_by=stopped_by,
        failure="the folder is gone" if is_gone else None,
        is_ray_left_behind=False,
        undelivered=undelivered,
        are_runs_gone=are_runs_gone,
        refused=refused,
        spent=spent(whole, 81),
        is_folder_gone=is_gone,
        separation=None,
        parent_run=None,
        experiment_id=None,
        run_ids={},
    )
    summary.show(Sweep(*toy()), result)
    return capsys.readouterr().err


def test_an_interrupted_sweep_tells_the_best_so_far_and_no_plan(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, INTERRUPTED, signal.SIGINT)
    assert "best so far: t00, eval_loss 1.2500 at step 9: trials were interrupted, and none has completed" in text
    assert "no trial completed" not in text
    assert "planned:" not in text


def test_a_command_can_be_copied_where_a_folder_has_a_blank(capsys: pytest.CaptureFixture[str]) -> None:
    assert "qsweep resume '/results/my x'\n" in told(capsys, INTERRUPTED, signal.SIGINT, folder="/results/my x")


def test_a_whole_sweep_tells_its_best_and_how_far_the_plan_was_off(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, COMPLETED)
    assert "best: t00, eval_loss 1.2500 at step 9" in text
    assert "planned: 100 steps (it took 91% less)" in text
    # The toy's files are no adapters that can be promoted.
    assert "the best trial's folder:\n  /results/x/trials/a\n" in text and "adapter:" not in text


def test_nothing_is_the_best_where_nothing_was_reported_or_the_folder_is_gone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "best: no trial completed" in told(capsys, [begun(), started("a")], signal.SIGINT)
    assert "best: none: the sweep's folder is gone" in told(capsys, INTERRUPTED, is_gone=True)


@pytest.mark.parametrize(("count", "events"), [(1, "1 event"), (2, "2 events")])
def test_what_mlflow_lacks_is_counted_in_words(capsys: pytest.CaptureFixture[str], count: int, events: str) -> None:
    uri = toy()[0].tracking.uri
    text = told(capsys, COMPLETED, undelivered=count, refused=count)
    rest = f"MLflow ({uri}) lacks {events}; send the rest, there or (--tracking-uri URI) elsewhere, with:"
    assert f"{rest}\n  {summary.command('qsweep')} resume /results/x\n" in text
    assert f"MLflow ({uri}) refused {events}; /results/x/events.jsonl has all events\n" in text


def test_what_mlflow_has_lost_is_sent_again_by_another_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, COMPLETED, undelivered=9, are_runs_gone=True)
    gone = f"MLflow ({toy()[0].tracking.uri}) no longer has runs of the sweep; send all events again with:"
    assert f"{gone}\n  {summary.command('qsweep')} resume /results/x --resend\n" in text
    assert "lacks" not in text


def test_repeats_are_counted_apart_from_trials(capsys: pytest.CaptureFixture[str]) -> None:
    again = [started(key, number).model_copy(update={"repeats": "a"}) for number, key in ((1, "b"), (2, "c"))]
    assert "1 trial and 2 repeats (2 RUNNING, 1 COMPLETED)" in told(capsys, [*COMPLETED, *again])
