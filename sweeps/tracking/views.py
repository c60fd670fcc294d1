"""Makes a saved view of one sweep for MLflow's UI: its trials, best first, with columns and charts that compare them.

MLflow 3.17.2 keeps saved views as experiment tags (`mlflow.sharedViewState.KEY`). The format is not documented, so a
view is a convenience: without it MLflow shows the same runs by its own defaults.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from sweeps.tracking import run_tags
from trainables.objective import Objective

TAG_PREFIX = "mlflow.sharedViewState."
LEARNING_RATE = "log10_learning_rate"
"""Stands for the learning rate in charts: MLflow's axes of params are linear."""
MOST_AXES = 6
"""Maximum params of the parallel coordinates: the labels of more overlap on a page 1000 pixels wide."""
_LINE = {
    "lineSmoothness": 0,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "range": {},
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "ignoreOutliers": False,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}


def shared_view(name: str, parent_run: str, params: Sequence[str], objective: Objective, time: float) -> str:
    """Returns the tag's value: a view called `name` of the runs below `parent_run`.

    Args:
        params: logged names of the searched fields, for columns and the parallel-coordinates chart.
        objective: its metric orders the runs, and stands in columns and charts.
        time: now, in seconds since the epoch.
    """
    packed = base64.b64encode(zlib.compress(json.dumps(_state(parent_run, params, objective)).encode())).decode()
    moment = int(time * 1000)
    return json.dumps({"name": name, "createdAt": moment, "updatedAt": moment, "state": f"deflate;{packed}"})


def _state(parent_run: str, params: Sequence[str], objective: Objective) -> dict[str, Any]:
    best = f"best_{objective.metric}"
    axes = [LEARNING_RATE if name == "learning_rate" else name for name in params]
    return {
        "searchFilter": run_tags.equals(run_tags.PARENT_RUN, parent_run),
        "orderByKey": f"metrics.`{best}`",
        "orderByAsc": objective.mode == "min",
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "runsHiddenMode": "SHOWALL",
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        # No view can hide MLflow's own Created and Duration: beside them, 1400 pixels have room for six columns, with
        # the Assistant closed. MLflow shows tags last.
        "selectedColumns": [f"metrics.`{best}`", *(f"params.`{name}`" for name in params), f"tags.`{run_tags.STATE}`"],
        "runListHidden": True,
        # MLflow sorts the sections by name.
        "compareRunSections": [_section("By parameter", 1, 420), _section("By step", 2, 360)],
        "compareRunCharts": [
            _chart("By parameter", "PARALLEL", f"Parameters against {best}", selectedParams=axes[:MOST_AXES],
                   selectedMetrics=[best], showAllRuns=True),
            *(_chart("By step", "LINE", metric, metricKey=metric, selectedMetricKeys=[metric], **_LINE)
              for metric in (objective.metric, "train_loss")),
            _chart("By parameter", "SCATTER", f"Learning rate against {best}", tooltipDataKeys=["params.`r`"],
                   xaxis={"key": LEARNING_RATE, "type": "PARAM"}, yaxis={"key": best, "type": "METRIC"}),
        ],
    }  # fmt: skip


def _section(name: str, columns: int, height: int) -> dict[str, Any]:
    """Returns a group of charts with `columns` charts in a row; `height` is in pixels."""
    state = {"display": True, "isReordered": False, "deleted": False, "isGenerated": False}
    return {"uuid": name, "name": name, "columns": columns, "cardHeight": height, **state}


def _chart(section: str, kind: str, title: str, **fields: Any) -> dict[str, Any]:
    common = {"runsCountToCompare": 100, "metricSectionId": section, "deleted": False, "isGenerated": False}
    return {"uuid": f"{kind}-{title}", "type": kind, "displayName": title, **common, **fields}
