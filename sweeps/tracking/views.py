"""A saved view of MLflow's UI on one sweep: its trials, best first, with the columns and charts that compare them.

MLflow 3.17.2 keeps saved views as experiment tags (`mlflow.sharedViewState.KEY`); the format is not documented, so a
view is a convenience: without it the same runs are there under MLflow's own defaults.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

TAG_PREFIX = "mlflow.sharedViewState."
_SECTION = {
    "uuid": "sweep",
    "name": "Sweep",
    "display": True,
    "isReordered": False,
    "deleted": False,
    "isGenerated": False,
}
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


def shared_view(name: str, parent_run: str, params: Sequence[str], time: float) -> str:
    """The tag's value: a view called `name` of the runs below `parent_run`.

    Args:
        params: the logged names of what is searched, for columns and the parallel-coordinates chart.
        time: now, in seconds since the epoch.
    """
    packed = base64.b64encode(zlib.compress(json.dumps(_state(parent_run, params)).encode())).decode()
    moment = int(time * 1000)
    return json.dumps({"name": name, "createdAt": moment, "updatedAt": moment, "state": f"deflate;{packed}"})


def _state(parent_run: str, params: Sequence[str]) -> dict[str, Any]:
    metrics = ["metrics.`best_eval_loss`", "metrics.`best_step`"]
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{parent_run}'",
        "orderByKey": "metrics.`best_eval_loss`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "runsHiddenMode": "SHOWALL",
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "selectedColumns": ["tags.`sweep.state`", *metrics, *(f"params.`{name}`" for name in params)],
        "compareRunSections": [_SECTION],
        "compareRunCharts": [
            _chart("PARALLEL", "Parameters against best_eval_loss", selectedParams=list(params),
                   selectedMetrics=["best_eval_loss"], showAllRuns=True),
            *(_chart("LINE", metric, metricKey=metric, selectedMetricKeys=[metric], **_LINE)
              for metric in ("eval_loss", "train_loss")),
            _chart("SCATTER", "learning_rate against best_eval_loss", tooltipDataKeys=["params.`r`"],
                   xaxis={"key": "learning_rate", "type": "PARAM"}, yaxis={"key": "best_eval_loss", "type": "METRIC"}),
        ],
    }  # fmt: skip


def _chart(kind: str, title: str, **fields: Any) -> dict[str, Any]:
    common = {"runsCountToCompare": 100, "metricSectionId": "sweep", "deleted": False, "isGenerated": False}
    return {"uuid": f"{kind}-{title}", "type": kind, "displayName": title, **common, **fields}
