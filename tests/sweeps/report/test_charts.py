"""The charts of a sweep: points lie where their trials are, good ones are dark, and texts stay texts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import report_sweeps as sweeps

from sweeps.record.folder import SweepFolder
from sweeps.report import page_file
from sweeps.report.charts import BINS, MOST_LINES, Chart, charts
from sweeps.report.page import Page

Document = dict[str, Any]


def page_of(folder: Path, trials: int = 27, document: Document | None = None, **metrics: float) -> Page:
    document = document or sweeps.config()
    found: SweepFolder = sweeps.write(folder, sweeps.events(trials, document, ends=True, **metrics), document)
    return page_file.read(found, 1000.0)


def chart(page: Page, title: str) -> Chart:
    return {each.title: each for each in charts(page)}[title]


def traces(found: Chart, mode: str) -> list[Any]:
    """The traces of this mode that have points."""
    return [trace for trace in found.figures[0].data if trace.mode == mode and any(x is not None for x in trace.x)]


def test_a_line_crosses_each_axis_at_the_trials_value(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    best = page.trials[0]
    line = traces(chart(page, "Settings and outcome"), "lines+markers")[-1]  # the best one is on top
    assert (line.name, line.x) == (f"{best.name}, the best", (0, 1, 2, 3, None))
    places = [one.place(best.record.params[one.name]) for one in page.axes]
    assert line.y == (*places, 0.0, None)
    assert line.hovertext[0].startswith("t00: COMPLETED at step 27<br>best eval_loss 1.")
    assert set(line.customdata) == {"t00"}


def test_the_rulers_stand_where_the_lines_cross_them(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    layout = chart(page, "Settings and outcome").figures[0].layout
    low, high = layout.xaxis.range
    for at, one in enumerate(page.axes):
        ruler = layout[f"yaxis{at + 2}"]
        assert ruler.position == pytest.approx((at - low) / (high - low))
        assert ruler.range == (one.low, one.high)
        bottom, top = layout.yaxis.range
        assert ruler.domain == pytest.approx([(place - bottom) / (top - bottom) for place in (0, 1)], abs=1e-9)


def test_lines_are_few_traces_and_hold_every_trial(tmp_path: Path) -> None:
    found = chart(page_of(tmp_path, 200), "eval_loss by step")
    (grey,), coloured = traces(found, "lines"), traces(found, "lines+markers")
    assert len(coloured) <= BINS + 2
    assert sum(y is None for trace in coloured for y in trace.y) == MOST_LINES
    assert sum(y is None for y in grey.y) == 200 - MOST_LINES


def test_a_score_of_one_report_of_several_has_no_curve(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    scored_last = tuple(replace(trial, evals=trial.evals[3:]) for trial in page.trials)
    titles = [found.title for found in charts(replace(page, trials=scored_last))]
    assert "eval_loss by step" not in titles and "Settings and outcome" in titles
    short = [(trial.evals[:1], replace(trial.record, evals=trial.record.evals[:1])) for trial in page.trials]
    trials = [
        replace(trial, evals=evals, record=record) for trial, (evals, record) in zip(page.trials, short, strict=True)
    ]
    assert chart(replace(page, trials=tuple(trials)), "eval_loss by step"), "there is only one report so far"


def test_the_last_point_tells_the_state(tmp_path: Path) -> None:
    found = traces(chart(page_of(tmp_path), "eval_loss by step"), "markers")
    ends = {(trace.legendgroup, trace.marker.symbol, x) for trace in found for x in trace.x}
    assert ends == {("STOPPED", "x", 1), ("STOPPED", "x", 3), ("STOPPED", "x", 9), ("COMPLETED", "circle", 27)}


@pytest.mark.parametrize("mode", ["min", "max"])
def test_good_values_are_dark(tmp_path: Path, mode: str) -> None:
    document = sweeps.config(objective={"metric": "score", "mode": mode})
    page = page_of(tmp_path, 12, document, score=1.0)
    assert (page.trials[0].value < page.trials[-1].value) is (mode == "min")
    found = chart(page, "score by step")
    lines = {name: line.line.color for line in traces(found, "lines+markers") for name in line.customdata}
    good, bad = lines[page.trials[1].name], lines[page.trials[-1].name]  # the best one is black
    assert brightness(good) < brightness(bad)
    scale = found.figures[0].layout.coloraxis
    assert (scale.cmin, scale.cmax) == (min(t.value for t in page.trials), max(t.value for t in page.trials))
    assert scale.colorscale[0 if mode == "min" else -1][1] == "#440154"  # the dark end of viridis


def brightness(colour: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", colour)))


def test_values_far_from_the_others_have_the_colours_of_the_ends(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    far = replace(page.trials[-1], values=(1e9,))
    found = chart(replace(page, trials=(*page.trials[:-1], far)), "Settings and outcome")
    line = next(trace for trace in traces(found, "lines+markers") if far.name in trace.customdata)
    assert line.y[line.customdata.index(far.name) + len(page.axes)] == 1.0
    assert found.figures[0].layout.coloraxis.cmax == page.trials[-2].value
    assert "1 value far from the others: drawn at the end of the axis." in found.caption


def test_steps_of_rungs_are_marked_on_a_logarithmic_axis(tmp_path: Path) -> None:
    for trials in (27, 4, 1):  # the first trial alone goes to the end
        axis = chart(page_of(tmp_path / str(trials), trials), "eval_loss by step").figures[0].layout.xaxis
        assert (axis.type, axis.tickvals) == ("log", (1, 3, 9, 27))
        assert axis.title.text == "optimizer step (log scale)"


def test_points_of_one_word_are_spread_around_it_and_numbers_stay(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    once = tuple(replace(trial, reports={0: 1.0}) for trial in page.trials)
    ranks, _, rates = chart(replace(page, trials=once), "Each field alone").figures
    places = {trial.name: trial.record.params for trial in page.trials}
    options = page.axes[0].options
    points = [(name, x) for trace in ranks.data for name, x in zip(trace.customdata or (), trace.x, strict=False)]
    assert len({x for _, x in points}) == len(points) == 27
    assert all(options[round(x)] == places[name]["r"] and abs(x - round(x)) <= 0.15 for name, x in points)
    for trace in rates.data:
        if trace.customdata:
            assert trace.x == pytest.approx([places[name]["learning_rate"] for name in trace.customdata])


def test_points_of_one_colour_are_trials_after_equal_steps(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    rates = chart(page, "Each field alone").figures[2]
    assert [(trace.name, len(trace.x)) for trace in rates.data] == [("1", 27), ("3", 9), ("9", 3), ("27", 1)]
    assert len({trace.marker.color for trace in rates.data}) == 4
    values = {trial.name: [value for _, value in trial.evals] for trial in page.trials}
    for place, trace in enumerate(rates.data):
        assert trace.y == tuple(values[name][place] for name in trace.customdata)
        ringed = [name for name, width in zip(trace.customdata, trace.marker.line.width, strict=True) if width]
        assert ringed == [page.trials[0].name]


def test_of_many_reports_a_few_are_drawn_the_last_one_too(tmp_path: Path) -> None:
    page = page_of(tmp_path, 1)
    many = replace(page.trials[0], reports=dict.fromkeys(range(12), 1.0))
    rungs = tuple(replace(page.rungs[0], step=place) for place in range(12))
    traces = chart(replace(page, trials=(many,), rungs=rungs), "Each field alone").figures[0].data
    assert [trace.name for trace in traces] == ["2", "5", "8", "11"]


def test_importance_is_told_below_the_axis_from_enough_trials_on(tmp_path: Path) -> None:
    found = chart(page_of(tmp_path / "60", 60), "Each field alone")
    ranks, modules, rates = (figure.layout.xaxis.title.text for figure in found.figures)
    assert re.fullmatch(r"learning_rate \(log scale\)<br>importance [89]\d%", rates)
    assert (ranks, modules) == ("r<br>importance not beyond chance", "target_modules<br>importance not beyond chance")
    assert found.lines[0].startswith("Importance (PED-ANOVA, of 20 trials at step 3): how far")
    few = chart(page_of(tmp_path / "19", 19), "Each field alone")
    assert few.figures[2].layout.xaxis.title.text == "learning_rate (log scale)"
    assert few.lines[0] == "Importance of each field: unknown, as 19 trials are too few: 20 are needed."


def test_what_was_never_tried_is_told(tmp_path: Path) -> None:
    page = page_of(tmp_path, 3)
    assert page.untried == ("r 4, 16", "learning_rate 1e-05 to 0.000119, 0.000342 to 0.00341")
    assert chart(page, "Each field alone").lines[-1] == f"Never tried: {'; '.join(page.untried)}."
    running = chart(replace(page, status="RUNNING"), "Each field alone")
    assert running.lines[-1].startswith("Not tried so far: r 4, 16; ")


def test_labels_give_way_to_the_best_trial_s_line(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    found = chart(page, "Settings and outcome")
    best = [place for place in traces(found, "lines+markers")[-1].y if place is not None]
    layout = found.figures[0].layout
    for at in range(1, len(best) - 1):
        # Plotly moves labels down by a positive number: a line that rises to the axis comes from below.
        assert layout[f"yaxis{at + 2}"].ticklabelshift == (-10 if best[at - 1] <= best[at] else 10)
    assert layout[f"yaxis{len(best) + 1}"].side == "right"


def test_bars_of_reports_add_up_to_the_trials_that_came_there(tmp_path: Path) -> None:
    bars = chart(page_of(tmp_path), "Trials at each report").figures[0].data
    counts = zip(*(bar.y for bar in bars), strict=True)
    assert [sum(count or 0 for count in each) for each in counts] == [27, 9, 3, 1]
    assert bars[0].x[0] == "step 1<br>27 trials"


def test_times_are_told_in_a_unit_that_suits_them(tmp_path: Path) -> None:
    short = chart(page_of(tmp_path / "a", 3), "When trials trained").figures[0].layout
    long = chart(page_of(tmp_path / "b", 300), "When trials trained").figures[0].layout
    assert short.xaxis.title.text == "seconds that the sweep has run"
    assert long.xaxis.title.text == "minutes that the sweep has run"
    assert (long.yaxis.categoryarray[:2], long.height) == (("t00", "t01"), 900)


def test_what_is_told_of_a_trial_is_escaped(tmp_path: Path) -> None:
    page = page_of(tmp_path, 1)
    first = page.trials[0]
    odd = replace(first, record=replace(first.record, params={"modules": "<a href=javascript:x> %{x}"}))
    found = charts(replace(page, trials=(odd,), axes=()))
    (text,) = traces({each.title: each for each in found}["eval_loss by step"], "markers")[0].hovertext
    assert "modules &lt;a href=javascript:x&gt; %{x}<br>" in text
    assert text.endswith("<br>2,700 tokens, 14 s, 1,000 trainable parameters")
    (curve,) = traces({each.title: each for each in found}["train_loss of the best trial"], "lines")
    assert "&gt; &#37;{x}<br>" in curve.hovertemplate  # plotly would put a number for %{x}
