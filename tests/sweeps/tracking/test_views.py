"""The saved view that a sweep leaves in MLflow. Its format is MLflow's own, and was looked at in a browser (3.17.2)."""

from __future__ import annotations

import base64
import json
import zlib

import pytest
from sweep_events import begun, ended, record, reported, started

from sweeps.record.events import TrialState
from sweeps.report.trial_tables import ending
from sweeps.tracking.views import MOST_AXES, shared_view
from trainables.objective import LOWEST_LOSS, Objective

PARAMS = ["r", "lora_alpha", "target_modules", "learning_rate"]


def state(params: list[str], objective: Objective = LOWEST_LOSS) -> dict:
    document = json.loads(shared_view("demo", "abc", params, objective, 1.5))
    assert (document["name"], document["createdAt"], document["updatedAt"]) == ("demo", 1500, 1500)
    kind, packed = document["state"].split(";")
    assert kind == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def charts(view: dict, kind: str) -> list[dict]:
    return [chart for chart in view["compareRunCharts"] if chart["type"] == kind]


def test_the_columns_are_the_best_value_what_was_searched_and_how_the_trial_ended():
    """Six of them: as many as a window of 1400 pixels shows beside MLflow's own."""
    assert state(PARAMS)["selectedColumns"] == [
        "metrics.`best_eval_loss`",
        *(f"params.`{name}`" for name in PARAMS),
        "tags.`sweep.state`",
    ]


def test_the_parallel_coordinates_have_a_row_for_themselves():
    view = state(PARAMS)
    (chart,) = charts(view, "PARALLEL")
    (section,) = [each for each in view["compareRunSections"] if each["uuid"] == chart["metricSectionId"]]
    assert section["columns"] == 1
    # MLflow sorts sections by name: they are to be seen first.
    assert section["name"] == min(each["name"] for each in view["compareRunSections"])


def test_charts_show_the_logarithm_of_the_learning_rate():
    view = state(PARAMS)
    (parallel,), (scatter,) = charts(view, "PARALLEL"), charts(view, "SCATTER")
    assert parallel["selectedParams"] == ["r", "lora_alpha", "target_modules", "log10_learning_rate"]
    assert scatter["xaxis"] == {"key": "log10_learning_rate", "type": "PARAM"}


def test_a_large_space_keeps_its_axes_apart():
    view = state([*PARAMS, *(f"p{number}" for number in range(9))])
    assert len(charts(view, "PARALLEL")[0]["selectedParams"]) == MOST_AXES
    assert len([name for name in view["selectedColumns"] if name.startswith("params.")]) == 13


@pytest.mark.parametrize(
    ("events", "line"),
    [
        ([reported("a", 9, 0.71234)], "STOPPED at step 9, 4 s, best 0.7123: by the scheduler"),
        ([], "STOPPED at step 0: by the scheduler"),
    ],
)
def test_a_trials_note_begins_with_what_is_asked_first(events, line):
    end = ended("a", TrialState.STOPPED, "by the scheduler")
    assert ending(record([begun(), started("a"), *events, end]).trials["a"], "eval_loss") == line


def test_where_higher_is_better_the_highest_come_first():
    view = state(PARAMS, Objective(metric="eval_accuracy", mode="max"))
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best_eval_accuracy`", False)
    assert "metrics.`best_eval_accuracy`" in view["selectedColumns"]
    assert [chart["selectedMetrics"] for chart in charts(view, "PARALLEL")] == [["best_eval_accuracy"]]
