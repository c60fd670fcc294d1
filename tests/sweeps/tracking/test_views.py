"""The saved view that a sweep leaves in MLflow. Its format is MLflow's own, and was looked at in a browser (3.17.2)."""

from __future__ import annotations

import base64
import json
import zlib

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


def test_columns_and_charts_show_what_was_searched_against_the_best_value():
    view = state(PARAMS)
    # Six of them: as many as a window of 1400 pixels shows beside MLflow's own.
    columns = ["metrics.`best_eval_loss`", *(f"params.`{name}`" for name in PARAMS), "tags.`sweep.state`"]
    assert view["selectedColumns"] == columns
    (parallel,), (scatter,) = charts(view, "PARALLEL"), charts(view, "SCATTER")
    assert parallel["selectedParams"] == ["r", "lora_alpha", "target_modules", "log10_learning_rate"]
    assert scatter["xaxis"] == {"key": "log10_learning_rate", "type": "PARAM"}
    # The parallel coordinates have a row for themselves; MLflow sorts sections by name: they are to be seen first.
    first = min(view["compareRunSections"], key=lambda each: each["name"])
    assert (first["uuid"], first["columns"]) == (parallel["metricSectionId"], 1)
    large = state([*PARAMS, *(f"p{number}" for number in range(9))])
    assert len(charts(large, "PARALLEL")[0]["selectedParams"]) == MOST_AXES


def test_where_higher_is_better_the_highest_come_first():
    view = state(PARAMS, Objective(metric="eval_accuracy", mode="max"))
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best_eval_accuracy`", False)
    assert "metrics.`best_eval_accuracy`" in view["selectedColumns"]
    assert [chart["selectedMetrics"] for chart in charts(view, "PARALLEL")] == [["best_eval_accuracy"]]
