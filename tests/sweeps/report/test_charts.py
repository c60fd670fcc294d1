"""The charts of a sweep: points lie where their trials are, good ones are dark, and texts stay texts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import report_sweeps as sweeps
import two_sweeps

from sweeps.record.events import TrialReported
from sweeps.record.folder import read_events
from sweeps.report import charts, page_file, status
from sweeps.report.charts import BINS, Chart
from sweeps.report.page import MOST_LINES, Page
from sweeps.report.sweeps_compared import compared
from sweeps.report.trial_story import SlotTime


def page_of(folder: Path, trials: int, document: dict[str, Any] | None = None, **metrics: float) -> Page:
    document = document or sweeps.config()
    written = sweeps.write(folder, sweeps.events(trials, document, ends=True, **metrics), document)
    return page_file.read_page(written, 1000.0)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of 27 trials, of which the first goes to the end."""
    return page_of(tmp_path_factory.mktemp("sweep"), 27)


def there(found: Chart | None) -> Chart:
    assert found is not None
    return found


def traces(found: Chart, mode: str) -> list[Any]:
    """The traces of this mode that have points."""
    return [trace for trace in found.figures[0].data if trace.mode == mode and any(x is not None for x in trace.x)]


def test_a_line_crosses_each_axis_at_the_trials_value_where_the_ruler_stands(page: Page) -> None:
    best, found = page.trials[0], there(charts.parallel(page))
    line = traces(found, "lines+markers")[-1]  # the best one is on top
    assert (line.name, line.x) == (f"{best.name}, the best", (0, 1, 2, 3, None))
    places = [one.place(best.record.params[one.name]) for one in page.axes]
    assert line.y == (*places, 0.0, None)
    assert line.hovertext[0].startswith("t00: COMPLETED at step 27<br>best eval_loss 1.")
    assert set(line.customdata) == {"t00"}
    layout = found.figures[0].layout
    low, high = layout.xaxis.range
    bottom, top = layout.yaxis.range
    for at, one in enumerate(page.axes):
        ruler = layout[f"yaxis{at + 2}"]
        assert ruler.position == pytest.approx((at - low) / (high - low))
        assert ruler.range == (one.low, one.high)
        assert ruler.domain == pytest.approx([(place - bottom) / (top - bottom) for place in (0, 1)], abs=1e-9)


def test_the_parallel_chart_says_that_lines_end_at_different_steps(page: Page) -> None:
    uneven = " Lines end at different steps: a trial that was stopped early has the value of its fewer steps."
    assert uneven in there(charts.parallel(page)).caption
    whole = replace(page, trials=tuple(trial for trial in page.trials if trial.record.reported_step == 27))
    assert whole.trials and uneven not in there(charts.parallel(whole)).caption


def test_labels_give_way_to_the_best_trials_line(page: Page) -> None:
    found = there(charts.parallel(page))
    best = [place for place in traces(found, "lines+markers")[-1].y if place is not None]
    for at in range(1, len(best) - 1):
        # Plotly moves labels down by a positive number: a line that rises to the axis comes from below.
        moved = -10 if best[at - 1] <= best[at] else 10
        assert found.figures[0].layout[f"yaxis{at + 2}"].ticklabelshift == moved


def test_values_far_from_the_others_are_drawn_at_the_ends_and_the_base_is_on_the_axis(page: Page) -> None:
    far = replace(page.trials[-1], values=(1e9,), evals=((1, 1e9),))
    trials = (*page.trials[:-1], far)
    found = there(charts.parallel(replace(page, trials=trials)))
    line = next(trace for trace in traces(found, "lines+markers") if far.name in trace.customdata)
    assert line.y[line.customdata.index(far.name) + len(page.axes)] == 1.0
    assert found.figures[0].layout.coloraxis.cmax == page.trials[-2].value
    assert "1 value far from the others: drawn at the end of the axis." in found.caption
    for base, drawn in ((4.5, page.trials), (7.0, trials)):
        found = there(charts.by_step(replace(page, base=base, trials=drawn)))
        assert "The dashed line is the base without an adapter." in found.caption
        (line,) = found.figures[0].layout.shapes
        shown = found.figures[0].layout.yaxis.range
        assert line.y0 == base and (shown is None or shown[0] <= base <= shown[1] < 1e9)
    assert "Beyond the axis: 1 point far from the others." in found.caption


def test_a_score_of_one_report_of_several_has_no_curve(page: Page) -> None:
    scored_last = tuple(replace(trial, evals=trial.evals[3:]) for trial in page.trials)
    assert charts.by_step(replace(page, trials=scored_last)) is None
    records = [replace(trial.record, evals=trial.record.evals[:1]) for trial in page.trials]
    once = [replace(trial, evals=trial.evals[:1], record=own) for trial, own in zip(page.trials, records, strict=True)]
    assert charts.by_step(replace(page, trials=tuple(once))), "there is only one report so far"


def test_the_last_point_tells_the_state_on_an_axis_that_marks_the_rungs(page: Page) -> None:
    found = there(charts.by_step(page))
    ends = {(trace.legendgroup, trace.marker.symbol, x) for trace in traces(found, "markers") for x in trace.x}
    assert ends == {("STOPPED", "x", 1), ("STOPPED", "x", 3), ("STOPPED", "x", 9), ("COMPLETED", "circle", 27)}
    axis = found.figures[0].layout.xaxis
    assert (axis.type, axis.tickvals, axis.title.text) == ("log", (1, 3, 9, 27), "optimizer step (log scale)")


@pytest.mark.parametrize("mode", ["min", "max"])
def test_good_values_are_dark(tmp_path: Path, mode: str) -> None:
    document = sweeps.config(objective={"metric": "score", "mode": mode})
    page = page_of(tmp_path, 12, document, score=1.0)
    assert page.trials[0].is_best and (page.trials[0].value < page.trials[-1].value) is (mode == "min")
    found = there(charts.by_step(page))
    lines = {name: line.line.color for line in traces(found, "lines+markers") for name in line.customdata}
    # The best one is black.
    good, bad = (sum(map(float, re.findall(r"[\d.]+", lines[page.trials[place].name]))) for place in (1, -1))
    assert good < bad
    scale = found.figures[0].layout.coloraxis
    assert (scale.cmin, scale.cmax) == (min(t.value for t in page.trials), max(t.value for t in page.trials))
    assert scale.colorscale[0 if mode == "min" else -1][1] == "#440154"  # the dark end of viridis


def test_points_of_one_colour_are_trials_after_equal_steps(page: Page) -> None:
    rates = there(charts.by_field(page)).figures[2]
    assert [(trace.name, len(trace.x)) for trace in rates.data] == [("1", 27), ("3", 9), ("9", 3), ("27", 1)]
    assert len({trace.marker.color for trace in rates.data}) == 4
    trials = {trial.name: trial for trial in page.trials}
    for place, trace in enumerate(rates.data):
        assert trace.y == tuple(trials[name].evals[place][1] for name in trace.customdata)
        assert trace.x == pytest.approx([trials[name].record.params["learning_rate"] for name in trace.customdata])
        ringed = [name for name, width in zip(trace.customdata, trace.marker.line.width, strict=True) if width]
        assert ringed == [page.trials[0].name]


def test_points_of_one_word_are_spread_around_it_and_of_many_reports_a_few_are_drawn(page: Page) -> None:
    once = tuple(replace(trial, reports={0: 1.0}) for trial in page.trials)
    ranks = there(charts.by_field(replace(page, trials=once))).figures[0]
    places = {trial.name: trial.record.params for trial in page.trials}
    points = [(name, x) for trace in ranks.data for name, x in zip(trace.customdata or (), trace.x, strict=False)]
    assert len({x for _, x in points}) == len(points) == 27
    options = page.axes[0].options
    assert all(options[round(x)] == places[name]["r"] and abs(x - round(x)) <= 0.15 for name, x in points)
    many = replace(page.trials[0], reports=dict.fromkeys(range(12), 1.0))
    rungs = tuple(page.rungs[0]._replace(step=place) for place in range(12))
    found = there(charts.by_field(replace(page, trials=(many,), rungs=rungs)))
    assert [trace.name for trace in found.figures[0].data] == ["2", "5", "8", "11"]


def test_importance_is_told_from_enough_trials_on_and_what_was_never_tried(tmp_path: Path, page: Page) -> None:
    found = there(charts.by_field(page_of(tmp_path, 60)))
    ranks, modules, rates = (figure.layout.xaxis.title.text for figure in found.figures)
    assert re.fullmatch(r"learning_rate \(log scale\)<br>importance [89]\d%", rates)
    assert (ranks, modules) == ("r<br>importance not beyond chance", "target_modules<br>importance not beyond chance")
    assert found.lines[0].startswith("Importance (PED-ANOVA, of 20 trials at step 3): how far")
    few = there(charts.by_field(replace(page, trials=page.trials[:19])))
    assert few.figures[2].layout.xaxis.title.text == "learning_rate (log scale)"
    assert few.lines[0] == "Importance of each field: unknown, with 19 trials: 20 are needed."
    three = page_of(tmp_path / "three", 3)
    assert three.untried == ("r 4, 16", "learning_rate 1e-05 to 0.000119, 0.000342 to 0.00341")
    assert there(charts.by_field(three)).lines[-1] == f"Not tried: {'; '.join(three.untried)}."


def test_bars_of_reports_add_up_to_the_trials_that_came_there(page: Page) -> None:
    bars = there(charts.rungs(page)).figures[0].data
    assert {bar.name: bar.y for bar in bars} == {
        "went on": (9, 3, 1, None),
        "COMPLETED": (None, None, None, 1),
        "STOPPED": (18, 6, 2, None),
    }
    assert bars[0].x[0] == "step 1<br>27 trials"


def test_many_trials_are_few_traces_the_best_ones_in_colour_and_times_have_a_unit_that_suits_them(tmp_path):
    many = page_of(tmp_path, 120)
    later = replace(many.trials[0], slot_times=(SlotTime(0.0, 301.0),))
    for drawn, unit in ((many.trials, "seconds"), ((*many.trials[1:], later), "minutes")):
        layout = there(charts.times(replace(many, trials=drawn))).figures[0].layout
        assert layout.xaxis.title.text == f"{unit} that the sweep has run"
        assert (layout.yaxis.categoryarray[:2], layout.height) == (("t00", "t01"), 900)
    found = there(charts.by_step(many))
    (grey,), coloured = traces(found, "lines"), traces(found, "lines+markers")
    assert len(coloured) <= BINS + 2
    assert sum(y is None for trace in coloured for y in trace.y) == MOST_LINES
    assert sum(y is None for y in grey.y) == 120 - MOST_LINES
    assert "The best 100 trials are in colour, the other 20 in grey." in found.caption


def test_what_is_told_of_a_trial_is_escaped(page: Page) -> None:
    first = page.trials[0]
    assert first.hover_lines[-1] == "2,700 tokens, 14 s, 1,000 trainable parameters"
    alone = replace(page, trials=(replace(first, hover_lines=("t00", "modules <a href=javascript:x> %{x}")),), axes=())
    (text,) = traces(there(charts.by_step(alone)), "markers")[0].hovertext
    assert text == "t00<br>modules &lt;a href=javascript:x&gt; %{x}"
    (curve,) = traces(there(charts.train_loss(alone)), "lines")
    assert "&gt; &#37;{x}<" in curve.hovertemplate  # plotly would put a number for %{x}


def test_curves_of_several_sweeps_run_by_step_tokens_and_seconds(tmp_path: Path) -> None:
    folders = [two_sweeps.sweep(tmp_path, name, loss) for name, loss in (("a", 1.0), ("b", 2.0))]
    whole = compared([(status.read_status(folder, 200.0), None) for folder in folders])
    told = [[event for event, _ in read_events(each.events) if isinstance(event, TrialReported)] for each in folders]
    found = there(charts.of_sweeps(*whole.curves(told)))
    for figure, reports in zip(found.figures, ([3.0, 9.0], [300.0, 900.0], [1.5, 4.5]), strict=True):
        thin, thick = (trace for trace in figure.data if trace.name == "a")
        assert (list(thick.x), list(thick.y)) == ([*reports, None], [pytest.approx(1.0)] * 2 + [None])
        assert list(thin.y) == [pytest.approx(1.5)] * 2 + [None]
        assert (thin.line.color, thin.line.width < thick.line.width) == (thick.line.color, True)
        assert thick.hovertext[1] == "a t00, step 9: 1"
