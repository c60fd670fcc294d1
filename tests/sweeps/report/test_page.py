"""The page of a sweep, as data: the answer first, and every kind of sweep has one."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import report_sweeps as sweeps
from sweep_events import answered, base, begun, ended, infeasible, parked, reported, started

from sweeps.record.events import Event, SweepEnded, TrialReported, TrialState
from sweeps.record.folder import locked
from sweeps.report import page_file, status
from sweeps.report.charts import charts
from sweeps.report.page import Page, ReportPoint, page
from sweeps.report.trial_story import SlotTime, Story

END = SweepEnded(time=100.0, reason="finished")


def made(folder: Path, events: Iterable[Event], document: dict[str, Any] | None = None) -> Page:
    """The page of a sweep with these events."""
    return page_file.read_page(sweeps.write(folder, list(events), document), 200.0)


def captions(found: Page) -> dict[str, str]:
    """Title of each chart -> its caption."""
    return {chart.title: chart.caption for chart in charts(found)}


def test_the_page_begins_with_what_launch_says(tmp_path: Path) -> None:
    trained: list[Event] = [started("a", 0, r=8), reported("a", 3, 2.0), ended("a", TrialState.COMPLETED), END]
    found = made(tmp_path, [begun(), base(4.5), *trained])
    assert found.best == "best: t00, eval_loss 2.0000 at step 3"
    assert found.best_settings == (("r", "8"),)
    assert found.compared[0].startswith(
        "whether t00 is better than the base without an adapter (4.5000) cannot be told"
    )
    assert [line.partition(" per ")[0] for line in found.meanings] == ["eval_loss: mean negative log-likelihood"]
    facts = [(fact.name, fact.value) for fact in found.taken[:3]]
    assert facts == [("trials", "1 (1 COMPLETED)"), ("time", "1 min 40 s"), ("steps", "3")]
    assert found.kept == ("the best trial's folder", tmp_path / "trials/a"), "of an unknown trainable"
    adapters = begun(config='{"trainable": "qlora"}')
    again = made(tmp_path / "again", [adapters, *trained])
    assert again.kept == ("the best adapter", tmp_path / "again/trials/a/best-000003/adapter")
    assert (found.state, found.is_running, found.base) == ("finished", False, 4.5)


def test_a_whole_sweep_has_every_chart_and_the_table_of_launch_and_more(tmp_path: Path) -> None:
    found = made(tmp_path, sweeps.events(30, sweeps.config()))
    assert list(captions(found)) == [
        "Settings and outcome",
        "eval_loss by step",
        "Each field alone",
        "train_loss of the best 5 trials",
        "Trials at each report",
        "When trials trained",
    ]
    assert [rung.fates for rung in found.rungs[2:]] == [{"went on": 2, "STOPPED": 2}, {"COMPLETED": 2}]
    heads = " ".join(column.head for column in found.columns)
    launch, more = "trial r modules lr alpha steps best eval_loss at state", "tokens seconds why it ended key"
    assert heads == f"{launch} {more}"
    assert all(column.meaning for column in found.columns)
    assert [row.is_best for row in found.rows] == [True, *[False] * 30]
    assert found.rows[-1].cells[0] == "base"
    assert {len(row.cells) for row in found.rows} == {len(found.columns)}


def test_several_objectives_have_a_chart_and_a_pareto_column(tmp_path: Path) -> None:
    document = sweeps.config(objective=[{"metric": "eval_loss"}, {"metric": "accuracy", "mode": "max"}])
    found = made(tmp_path, sweeps.events(8, document, accuracy=0.2), document)
    assert "eval_loss and accuracy" in captions(found)
    assert "Pareto" in [column.head for column in found.columns]
    assert sum(trial.is_in_pareto_set for trial in found.trials) >= 1


def test_a_sweep_that_has_not_begun_and_one_whose_trials_all_failed(tmp_path: Path) -> None:
    found = made(tmp_path, [])
    assert (found.best, found.rows, found.when, captions(found)) == ("best: no trial began", (), "not begun", {})
    failed = ended("a", TrialState.FAILED, "a <bad> day")
    found = made(tmp_path, [begun(), started("a", 0, r=8), failed, infeasible("b", 1, r=4), END])
    assert found.best == "best: no trial completed with a finite eval_loss"
    assert found.kept is None and not found.best_settings
    assert [row.cells[-2] for row in found.rows] == ["a <bad> day", "no such layer"]
    assert list(captions(found)) == ["When trials trained"]


def test_a_sweep_that_runs_tells_what_is_so_far(tmp_path: Path) -> None:
    late = started("late", 7, 150.0, r=4)
    folder = sweeps.write(tmp_path, [*sweeps.events(7, sweeps.config(), ends=False), late])
    with locked(folder):
        found = page_file.read_page(folder, 200.0)
    assert (found.state, found.is_running) == ("running", True)
    facts = {fact.name: fact.value for fact in found.taken}
    assert facts["time"].startswith("1 min 40 s (planned: ") and "ran for 1 min 40 s" in found.when, "until now"
    assert re.fullmatch(r"best so far: t06, eval_loss \d\.\d{4} at step 3", found.best), "t00 was behind at step 3"
    assert re.fullmatch(r"t00, eval_loss \d\.\d{4} at step 27 has gone further alone: .*", found.compared[0])
    assert found.best_settings and found.trials[0].is_best
    assert facts["trials"].startswith("8/8 (")
    assert found.rungs[1] == ReportPoint(3, Counter({"went on": 1, "PARKED": 2}))
    shown = captions(found)["Settings and outcome"]
    assert "thick line is the best trial" in shown and "Not drawn: 1 trial without a finite eval_loss." in shown


def test_values_that_are_not_finite_are_not_drawn(tmp_path: Path) -> None:
    story, read = Story(), status.EventsRead()
    for event in sweeps.events(4, sweeps.config()):
        if isinstance(event, TrialReported) and event.trial_key[-1] in "12":
            bad = {"eval_loss": math.inf if event.trial_key[-1] == "1" else math.nan}
            event = event.model_copy(update={"best_metrics": bad, "metrics": bad})
        read.take([(event, 0)])
        story.take(event, read.record)
    found = page(status.read_status(sweeps.write(tmp_path, []), 200.0, read), story, None, None, 200.0)
    assert [(trial.name, trial.evals) for trial in found.trials[2:]] == [("t01", ()), ("t02", ())]
    assert "Not drawn: 2 trials without a finite eval_loss." in captions(found)["eval_loss by step"]


def test_requests_are_told_passwords_are_not_and_a_clock_that_was_set_back_spoils_nothing(tmp_path: Path) -> None:
    document = sweeps.config(tracking={"uri": "http://me:***@host:5000"})
    gone = ended("0" * 12, TrialState.FAILED, "http://me:hunter2@host:5000 is gone")
    first, *others = sweeps.events(2, document)
    others.append(answered(60.0, asked="add r=8", is_accepted=False, message="no room"))
    found = made(tmp_path, [first.model_copy(update={"time": 1e6}), *others, gone], document)
    assert captions(found) and "hunter2" not in repr(found)
    assert found.requests == ("add r=8: refused: no room",)


def test_time_in_a_slot_leaves_out_pauses_between_drivers_and_lasts_until_now() -> None:
    story, read = Story(), status.EventsRead()
    for event in (
        begun(100.0),
        started("a", 0, 101.0),
        parked("a", 3).model_copy(update={"time": 104.0}),
        started("a", 0, 105.0),
        begun(1000.0),  # the driver was lost at 105
        started("a", 0, 1002.0),
        ended("a", TrialState.COMPLETED).model_copy(update={"time": 1010.0}),
        started("b", 0, 1011.0),
    ):
        read.take([(event, 0)])
        story.take(event, read.record)
    story.end(30.0)
    assert story.slot_times == {
        "a": [SlotTime(1.0, 4.0), SlotTime(5.0, 5.0), SlotTime(7.0, 15.0)],
        "b": [SlotTime(16.0, 30.0)],
    }


def scored(trials: int, document: dict[str, Any], *told_in: str) -> Iterable[Event]:
    """Three trials report their loss, and so many of them a score, in these metrics of the report."""
    for event in sweeps.events(3, document):
        if isinstance(event, TrialReported) and int(event.trial_key, 16) < trials:
            metrics = event.metrics | {"exact_match": 0.5}
            event = event.model_copy(update=dict.fromkeys(told_in, metrics))
        yield event


BY_SCORE = sweeps.config(objective={"metric": "exact_match", "mode": "max"}, evaluation={"metrics": ["exact_match"]})


def test_charts_draw_the_loss_where_few_trials_have_a_score(tmp_path: Path) -> None:
    for few, metric, drawn in ((1, "eval_loss", 3), (2, "exact_match", 2)):
        found = made(tmp_path / metric, scored(few, BY_SCORE, "metrics", "best_metrics"), BY_SCORE)
        is_said = "The charts draw eval_loss: few trials have exact_match." in found.notes
        assert (found.metric, is_said) == (metric, metric == "eval_loss")
        assert sum(math.isfinite(trial.value) for trial in found.trials) == drawn
    # A score that only finalists have belongs to the report of their best step.
    found = made(tmp_path / "finalists", scored(3, BY_SCORE, "best_metrics"), BY_SCORE)
    assert {trial.name: trial.reports for trial in found.trials} == {"t00": {3: 0.5}, "t01": {0: 0.5}, "t02": {0: 0.5}}
