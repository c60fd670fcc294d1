"""Links into MLflow's UI: a browser takes them as they are, and they hold no password."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest

from sweeps.report import ui_links


@pytest.mark.parametrize(
    ("server", "base"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://me:se%2Fcret@host/mlflow/", "https://host/mlflow"),
        ("http://me:***@host", "http://host"),
    ],
)
def test_a_link_begins_with_the_server_alone(server: str, base: str) -> None:
    assert ui_links.experiments(server) == f"{base}/#/experiments?workflowType=machine_learning"
    view = ui_links.saved_view(server, "7", "x-1")
    assert view == f"{base}/#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=x-1"


def test_the_runs_of_a_sweep_without_a_view_are_filtered_and_in_order() -> None:
    link = ui_links.runs_below("http://host", "7", "abc")
    assert not set(" '`\"") & set(link)
    query = {name: value for name, (value,) in parse_qs(urlsplit(urlsplit(link).fragment).query).items()}
    assert query == {
        "workflowType": "machine_learning",
        "searchFilter": "tags.`mlflow.parentRunId` = 'abc'",
        "orderByKey": "metrics.`best_eval_loss`",
        "orderByAsc": "true",
    }
