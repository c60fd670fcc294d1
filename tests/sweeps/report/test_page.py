"""The page of a sweep, as data: the answer first, and every kind of sweep has one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import report_sweeps as sweeps
from sweep_events import base, begun, ended, infeasible, parked, reported, started

from sweeps.record.events import Event, RequestAnswered, SweepEnded, TrialReported, TrialState
from sweeps.record.folder import SweepFolder, locked
from sweeps.report import page_file, status
from sweeps.report.charts import charts
from sweeps.report.page import Page, page
from sweeps.report.trial_story import Held, Story
from sweeps.statistics.trials import compare_best

END = SweepEnded(time=100.0, reason="finished")


def told(told: Iterable[Event]) -> Story:
    story, log = Story(), status.EventsRead()
    for event in told:
        story.take(event, log.record)
        log.take([(event, 0)])
    return story


def made(folder: Path, events: Iterable[Event], document: dict[str, Any] | None = None) -> Page:
    """The page of a sweep with these events, and its charts: that they can be made is part of each test."""
    events = list(events)
    written: SweepFolder = sweeps.write(folder, events, document)
    stands = status.read(written, 200.0)
    found = page(stands, told(events), compare_best(written, stands.record), None, 200.0)
    assert all(chart.title and chart.caption for chart in charts(found))
    return found


def titles(found: Page) -> list[str]:
    return [chart.title for chart in charts(found)]


def test_the_page_begins_with_what_launch_says(tmp_path: Path) -> None:
    events: list[Event] = [
        begun(),
        base(4.5),
        started("a", 0, r=8),
        reported("a", 3, 2.0),
        ended("a", TrialState.COMPLETED),
        END,
    ]
    found = made(tmp_path, events)
    assert found.best == "best: t00, eval_loss 2.0000 at step 3"
    assert found.best_settings == (("r", "8"),)
    assert found.compared[0].startswith("whether it is better than the base without an adapter (4.5000) cannot be told")
    assert [line.partition(" per ")[0] for line in found.meanings] == ["eval_loss: mean negative log-likelihood"]
    assert found.outcome[0].startswith("1 trial (1 COMPLETED) in 1 min 40 s, 3 steps")
    assert found.kept == ("the best trial's folder", tmp_path / "trials/a"), "of an unknown trainable"
    events[0] = begun().model_copy(update={"config": '{"trainable": "qlora"}'})
    again = made(tmp_path / "again", events)
    assert again.kept == ("the best adapter", tmp_path / "again/trials/a/best-000003/adapter")
    assert (found.state, found.is_running, found.base) == ("finished", False, 4.5)


def test_the_table_is_that_of_launch_and_more(tmp_path: Path) -> None:
    found = made(tmp_path, sweeps.events(8, sweeps.config()))
    heads = " ".join(column.head for column in found.columns)
    launch, more = "trial r modules lr alpha steps best eval_loss at state", "tokens seconds why it ended key"
    assert heads == f"{launch} {more}"
    assert all(column.meaning for column in found.columns)
    assert len(found.rows) == 9
    assert found.rows[0].is_best and not any(row.is_best for row in found.rows[1:])
    assert found.rows[-1].cells[0] == "base"
    assert {len(row.cells) for row in found.rows} == {len(found.columns)}


def test_a_whole_sweep_has_every_chart(tmp_path: Path) -> None:
    found = made(tmp_path, sweeps.events(30, sweeps.config()))
    assert titles(found) == [
        "Settings and outcome",
        "eval_loss by step",
        "Each field alone",
        "train_loss of the best 5 trials",
        "Trials at each report",
        "When trials trained",
    ]
    fates = [
        (rung.step, rung.reached, *(rung.fates[fate] for fate in ("went on", "completed", "ended there")))
        for rung in found.rungs
    ]
    assert fates == [(1, 30, 10, 0, 20), (3, 10, 4, 0, 6), (9, 4, 2, 0, 2), (27, 2, 0, 2, 0)]


def test_several_objectives_have_a_chart_and_a_pareto_column(tmp_path: Path) -> None:
    document = sweeps.config(objective=[{"metric": "eval_loss"}, {"metric": "accuracy", "mode": "max"}])
    found = made(tmp_path, sweeps.events(30, document, accuracy=0.2), document)
    assert "eval_loss and accuracy" in titles(found)
    assert "Pareto" in [column.head for column in found.columns]
    assert sum(trial.is_in_pareto_set for trial in found.trials) >= 1


def test_the_best_of_a_metric_to_maximise_is_the_highest(tmp_path: Path) -> None:
    document = sweeps.config(objective={"metric": "accuracy", "mode": "max"})
    found = made(tmp_path, sweeps.events(12, document, accuracy=0.2), document)
    values = [trial.value for trial in found.trials]
    assert values == sorted(values, reverse=True)
    assert found.trials[0].is_best
    assert "accuracy by step" in titles(found)


def test_a_sweep_that_has_not_begun(tmp_path: Path) -> None:
    found = made(tmp_path, [])
    assert (found.best, found.rows, titles(found)) == ("best: no trial began", (), [])
    assert found.when == "not begun"


def test_a_sweep_whose_trials_all_failed(tmp_path: Path) -> None:
    events: list[Event] = [
        begun(),
        started("a", 0, r=8),
        ended("a", TrialState.FAILED, "a <bad> day"),
        infeasible("b", 1, r=4),
        END,
    ]
    found = made(tmp_path, events)
    assert found.best == "best: no trial completed with a finite eval_loss"
    assert found.kept is None and not found.best_settings
    assert [row.cells[-2] for row in found.rows] == ["a <bad> day", "no such layer"]
    assert titles(found) == ["When trials trained"]


def searched(key: str, number: int, rank: int) -> Event:
    """A trial of a sweep that searches the rank."""
    return started(key, number, r=rank).model_copy(update={"point": {"adapter.r": rank}})


def test_captions_tell_nothing_that_is_not_drawn(tmp_path: Path) -> None:
    events: list[Event] = [begun(), base(2.5)]
    for number, key in enumerate("abc"):
        events += [searched(key, number, 2**number), reported(key, 3, 7.5 + number / 10)]
        events.append(ended(key, TrialState.DIVERGED))
    captions = {chart.title: chart.caption for chart in charts(made(tmp_path / "bad", [*events, END]))}
    assert "The base without an adapter (2.5000) lies beyond the axis." in captions["eval_loss by step"]
    assert "dashed" not in captions["eval_loss by step"] and "thick" not in captions["Settings and outcome"]
    running: list[Event] = [begun(), base(4.5), searched("d", 3, 16), reported("d", 3, 2.4), searched("e", 4, 2)]
    caption = charts(made(tmp_path / "well", running))[0].caption
    assert "1 trial that has not reported yet is not drawn" in caption and "thick line is the best trial" in caption


def test_values_that_are_not_finite_are_not_drawn(tmp_path: Path) -> None:
    events: list[Event] = [begun()]
    for number, loss in enumerate((2.0, math.inf, math.nan, 1.5)):
        key = f"{number}"
        events += [started(key, number, r=8 + number), reported(key, 3, 1.0 if number == 3 else 2.0)]
        report = events[-1].report.model_copy(
            update={"best_metrics": {"eval_loss": loss}, "metrics": {"eval_loss": loss}}
        )
        events[-1] = events[-1].model_copy(update={"report": report})
        events.append(ended(key, TrialState.DIVERGED if number in (1, 2) else TrialState.COMPLETED))
    story, log = told(events), status.EventsRead()
    log.take((event, 0) for event in events)
    stands = status.read(sweeps.write(tmp_path, []), 200.0, log)
    found = page(stands, story, None, None, 200.0)
    assert [trial.name for trial in found.trials] == ["t03", "t00", "t01", "t02"]
    assert [trial.evals for trial in found.trials[2:]] == [(), ()]
    caption = charts(found)[0].caption
    assert "2 trials without a finite eval_loss are not drawn" in caption


def test_a_clock_that_was_set_back_spoils_no_page(tmp_path: Path) -> None:
    first, *others = sweeps.events(2, sweeps.config())
    folder = sweeps.write(tmp_path, [first.model_copy(update={"time": 1e6}), *others])
    assert charts(page_file.read(folder, 1e6 + 1))


def test_a_sweep_that_runs_tells_what_is_so_far(tmp_path: Path) -> None:
    folder = sweeps.write(tmp_path, sweeps.events(8, sweeps.config(), ends=False))
    with locked(folder):
        found = page_file.read(folder, 200.0)
    assert (found.state, found.is_running) == ("running", True)
    facts = {fact.name: fact.value for fact in found.cost}
    assert f"ran for {facts['time']}" in found.when and f" in {facts['time']}, " in found.outcome[0]
    assert facts["time"] == "1 min 40 s", "until now, in all three"
    assert re.fullmatch(
        r"best so far: t00, eval_loss \d\.\d{4} at step 27: no trial that may win has ended yet", found.best
    )
    assert found.best_settings and found.trials[0].is_best
    assert any(line.startswith("8 of 8 trials have begun") for line in found.outcome)
    fates = [[rung.fates[fate] for fate in ("went on", "waiting there", "ended there")] for rung in found.rungs]
    assert fates == [[3, 5, 0], [1, 2, 0], [1, 0, 0], [0, 1, 0]]


def test_the_table_and_what_points_tell_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.report.page.MOST_ROWS", 4)
    monkeypatch.setattr("sweeps.report.charts.MOST_TOLD", 3)
    monkeypatch.setattr("sweeps.report.charts.MOST_LINES", 2)
    found = made(tmp_path, sweeps.events(9, sweeps.config()))
    assert (len(found.rows), found.left_out) == (5, 5)  # the base has a row too
    by_name = {chart.title: chart for chart in charts(found)}
    told = [text for trace in by_name["Each field alone"].figures[0].data for text in trace.hovertext or ()]
    assert (len(told), sum("<br>" in text for text in told)) == (14, 8)  # the best 3 of 9 trials have 8 reports
    assert "The best 2 trials are in colour, the other 7 in grey." in by_name["eval_loss by step"].caption


def test_requests_and_their_answers_are_told(tmp_path: Path) -> None:
    answer = RequestAnswered(
        time=60.0, request="1", sender="qsweep add", asked="add r=8", is_accepted=False, message="no room"
    )
    assert made(tmp_path, [begun(), answer, END]).requests == ("add r=8: refused: no room",)


def test_passwords_are_not_on_the_page(tmp_path: Path) -> None:
    document = sweeps.config(tracking={"uri": "http://me:hunter2@host:5000"})
    events: list[Event] = [
        begun(),
        started("a", 0, r=8),
        ended("a", TrialState.FAILED, "http://me:hunter2@host:5000 is gone"),
        END,
    ]
    assert "hunter2" not in repr(made(tmp_path, [*sweeps.events(3, document)], document))
    assert "hunter2" not in repr(made(tmp_path, events))


def test_time_in_a_slot_leaves_out_pauses_between_drivers() -> None:
    events: list[Event] = [
        begun(100.0),
        started("a", 0, 101.0),
        parked("a", 3).model_copy(update={"time": 104.0}),
        started("a", 0, 105.0),
        begun(1000.0),  # the driver was lost at 105
        started("a", 0, 1002.0),
        ended("a", TrialState.COMPLETED).model_copy(update={"time": 1010.0}),
    ]
    assert told(events).held == {"a": [Held(1.0, 4.0), Held(5.0, 5.0), Held(7.0, 15.0)]}


def test_a_trial_that_holds_a_slot_now_is_shown_until_now() -> None:
    story = told([begun(100.0), started("a", 0, 101.0)])
    story.end(130.0)
    assert story.held == {"a": [Held(1.0, 30.0)]}


@pytest.mark.parametrize(("scored", "metric"), [(1, "eval_loss"), (2, "exact_match")])
def test_charts_draw_the_loss_where_few_trials_have_a_score(tmp_path: Path, scored: int, metric: str) -> None:
    """Three trials report their loss, the first of them answers too."""
    document = sweeps.config(
        objective={"metric": "exact_match", "mode": "max"}, evaluation={"metrics": ["exact_match"]}
    )
    log = []
    for event in sweeps.events(3, document):
        if isinstance(event, TrialReported) and int(event.trial_key, 16) < scored:
            metrics = event.report.metrics | {"exact_match": 0.5}
            report = event.report.model_copy(update={"metrics": metrics, "best_metrics": metrics})
            event = event.model_copy(update={"report": report})
        log.append(event)
    found = page_file.read(sweeps.write(tmp_path, log, document), 1000.0)
    assert (found.metric, "The charts draw eval_loss: few trials have exact_match." in found.notes) == (
        metric,
        metric == "eval_loss",
    )
    drawn = [trial for trial in found.trials if math.isfinite(trial.value)]
    assert len(drawn) == (3 if metric == "eval_loss" else scored)


def test_a_score_that_only_finalists_have_belongs_to_the_report_of_their_best_step(tmp_path: Path) -> None:
    document = sweeps.config(objective={"metric": "exact_match", "mode": "max"})
    log = []
    for event in sweeps.events(3, document):
        if isinstance(event, TrialReported):
            scored = event.report.best_metrics | {"exact_match": 0.5}
            event = event.model_copy(update={"report": event.report.model_copy(update={"best_metrics": scored})})
        log.append(event)
    found = page_file.read(sweeps.write(tmp_path, log, document), 1000.0)
    reports = {trial.name: trial.reports for trial in found.trials}
    assert reports == {"t00": {3: 0.5}, "t01": {0: 0.5}, "t02": {0: 0.5}}
