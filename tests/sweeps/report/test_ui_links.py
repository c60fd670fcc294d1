"""Links into MLflow's UI: a browser takes them as they are, and they hold no password."""

from __future__ import annotations

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
