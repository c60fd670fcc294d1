"""The names of metric points: a trainable's own metrics have others, and MLflow takes them."""

from __future__ import annotations

import pytest
from mlflow.utils import validation
from sweep_events import reported

from sweeps.tracking.metric_points import best_of, metric_points
from trainables import catalogue, toy
from trainables.errors import NotTrainable

LOGGED = {point.key for point in metric_points(reported("aaaa", 3, 0.7))} - {"eval_loss"}


def offer(monkeypatch, name: str) -> None:
    """A trainable with a metric of this name is looked for."""
    monkeypatch.setattr(toy, "METRICS", {"eval_loss": "min", name: "max"})
    catalogue.find("toy")


def test_a_metric_of_a_trainable_is_nothing_that_a_sweep_logs_itself_and_mlflow_takes_it(monkeypatch):
    for name in LOGGED:
        with pytest.raises(NotTrainable, match=f"METRICS has {name!r}"):
            offer(monkeypatch, name)
    for name in ("pass_1", "eval/f1", "f1: macro", "précision", "1-gram.f1", "_x", "best_of_4", "x" * 245):
        offer(monkeypatch, name)
        for logged in (name, *best_of({name: 1.0})):
            assert validation._validate_metric_name(logged) is None  # else it raises
