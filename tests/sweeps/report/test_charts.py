"""The charts of a sweep: points lie where their trials are, good ones are dark, and texts stay texts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import report_sweeps as sweeps

from sweeps.record.folder import SweepFolder
from sweeps.report import chart_parts, page_file
from sweeps.report.chart_parts import BINS, VIRIDIS, Colours, Figure, Trace, hover
from sweeps.report.charts import charts
from sweeps.report.page import Page

Document = dict[str, Any]


def page_of(folder: Path, trials: int = 27, document: Document | None = None, **metrics: float) -> Page:
    document = document or sweeps.config()
    found: SweepFolder = sweeps.write(folder, sweeps.events(trials, document, ends=True, **metrics), document)
    return page_file.read(found, 1000.0)


def figure(page: Page, title: str) -> Figure:
    return {each.title: each for each in charts(page)}[title]


def lines(found: Figure) -> list[Trace]:
    """The traces that have points."""
    return [trace for trace in found.traces if any(x is not None for x in trace.get("x", ()))]


def test_a_line_crosses_each_axis_at_the_trials_value(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    best = page.trials[0]
    line = lines(figure(page, "Settings and outcome"))[-1]  # the best one is on top
    assert (line["name"], line["x"]) == (f"{best.name}, the best", [0.0, 1.0, 2.0, 3.0, None])
    places = [one.place(best.record.params[one.name]) for one in page.axes]
    assert line["y"] == [*places, 0.0, None]
    assert line["hovertext"][0] == hover(best, page)


def test_lines_are_few_traces_and_hold_every_trial(tmp_path: Path) -> None:
    page = page_of(tmp_path, 200)
    found = lines(figure(page, "eval_loss by step"))
    assert len(found) <= BINS + 2
    gaps = sum(y is None for trace in found for y in trace["y"])
    assert gaps == len(page.trials) == 200


def test_the_last_point_tells_the_state(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    found = lines(figure(page, "eval_loss by step"))
    ends: set[tuple[int, str]] = set()
    for trace in found:
        for place, y in enumerate(trace["y"]):
            if y is None:
                ends.add((trace["x"][place - 1], trace["marker"]["symbol"][place - 1]))
    assert ends == {(1, "x"), (3, "x"), (9, "x"), (27, "circle")}


@pytest.mark.parametrize("mode", ["min", "max"])
def test_good_values_are_dark(tmp_path: Path, mode: str) -> None:
    document = sweeps.config(objective={"metric": "score", "mode": mode})
    page = page_of(tmp_path, 12, document, score=1.0)
    colours = Colours.of(page)
    best, worst = page.trials[0].value, page.trials[-1].value
    assert (best < worst) is (mode == "min")
    assert brightness(colours.of_bin(colours.bin(best))) < brightness(colours.of_bin(colours.bin(worst)))
    dark = colours.scale[0 if mode == "min" else -1]
    assert dark[1] == VIRIDIS[0]


def brightness(colour: str) -> int:
    return sum(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def test_values_beyond_the_colours_have_those_of_the_ends() -> None:
    colours = Colours(1.0, 2.0, False)
    assert [colours.bin(value) for value in (0.0, 1.0, 1.5, 2.0, 1e9)] == [0, 0, BINS // 2, BINS - 1, BINS - 1]
    assert Colours(1.0, 1.0, False).bin(1.0) == 0


def test_steps_of_rungs_are_marked_on_a_logarithmic_axis(tmp_path: Path) -> None:
    axis = figure(page_of(tmp_path), "eval_loss by step").layout["xaxis"]
    assert (axis["type"], axis["tickvals"]) == ("log", [1, 3, 9, 27])
    short = figure(page_of(tmp_path / "short", 4), "eval_loss by step").layout["xaxis"]
    assert short["tickvals"] == [1, 3, 9, 27]  # the first trial alone goes to the end
    two = figure(page_of(tmp_path / "two", 1), "eval_loss by step").layout["xaxis"]
    assert two["title"]["text"] == "optimizer step (log scale)"


def test_only_points_that_would_lie_on_each_other_are_moved_and_only_by_a_little(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    drawn = figure(page, "Each field alone")
    traces = [trace for trace in drawn.traces if len(trace["x"]) == 27]
    assert [trace["xaxis"] for trace in traces] == ["x", "x2", "x3"]
    ranks, rates = traces[0]["x"], traces[2]["x"]
    places = {one.name: one for one in page.axes}
    low, high = drawn.layout["yaxis"]["range"]
    at = [places["r"].place(trial.record.params["r"]) for trial in page.trials]
    for trial, x, place, rate in zip(page.trials, ranks, at, rates, strict=True):
        assert abs(x - place) <= 0.02 + 1e-9
        near = [o for o, there in zip(page.trials, at, strict=True) if there == place and o is not trial]
        gap = min((abs(other.value - trial.value) for other in near), default=math.inf)
        assert x == place or gap < 0.05 * (high - low)
        assert rate == places["learning_rate"].place(trial.record.params["learning_rate"])
    assert len({(x, trial.value) for x, trial in zip(ranks, page.trials, strict=True)}) == 27
    same = figure(
        replace(page, trials=tuple(replace(trial, values=(1.0,)) for trial in page.trials)), "Each field alone"
    )
    assert (
        len({x for trace in same.traces if trace.get("xaxis") == "x" and len(trace["x"]) == 27 for x in trace["x"]})
        == 27
    )


def test_bars_of_reports_add_up_to_the_trials_that_came_there(tmp_path: Path) -> None:
    found = figure(page_of(tmp_path), "Trials at each report")
    assert [sum(counts) for counts in zip(*(trace["y"] for trace in found.traces), strict=True)] == [27, 9, 3, 1]
    assert found.traces[0]["x"][0] == "step 1<br>27 trials"


def test_times_are_told_in_a_unit_that_suits_them(tmp_path: Path) -> None:
    short = figure(page_of(tmp_path / "a", 3), "When trials trained").layout
    long = figure(page_of(tmp_path / "b", 300), "When trials trained").layout
    assert short["xaxis"]["title"]["text"] == "seconds that the sweep has run"
    assert long["xaxis"]["title"]["text"] == "minutes that the sweep has run"
    assert len(long["yaxis"]["tickvals"]) <= 25 and long["height"] == 900


def test_what_is_told_of_a_trial_is_escaped(tmp_path: Path) -> None:
    page = page_of(tmp_path, 1)
    first = page.trials[0]
    odd = replace(first, record=replace(first.record, params={"modules": "<a href=javascript:x>"}))
    assert "&lt;a href=javascript:x&gt;" in hover(odd, page)
    assert hover(odd, page).startswith("t00: COMPLETED at step 27<br>best eval_loss 1.")
    assert hover(odd, page).endswith("<br>2,700 tokens, 14 s, 1,000 trainable parameters")


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    assert (chart_parts.cut("all-linear", 10), chart_parts.cut("attention-qv", 10)) == ("all-linear", "attention…")
    assert chart_parts.cut("attention-qv", 1) == "attenti…"
