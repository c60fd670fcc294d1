"""The promotion at the end of a sweep: what is refused before the sweep begins, and the exit code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from promotions import MODEL

from cluster.errors import HostError, HostsDied
from sweeps.cli import sweep_end
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError, Failed, SweepError


@pytest.mark.parametrize("error", [Failed("x"), HostsDied("x"), HostError("x"), SweepError("x")])
def test_a_promotion_that_fails_after_a_sweep_is_no_wrong_input(error: Exception, monkeypatch: Any) -> None:
    def fail(_request: object, _as_json: bool) -> None:
        raise error

    monkeypatch.setattr(sweep_end, "request_of", lambda *_, **__: None)
    monkeypatch.setattr(sweep_end, "show_promotion", fail)
    sweep: Any = SimpleNamespace(config=SimpleNamespace(tracking=SimpleNamespace(uri="sqlite:///a.db")))
    ended: Any = SimpleNamespace(folder="/results/x")
    assert sweep_end._promote(sweep, ended, as_json=True) == (1, {"promotion": None, "not_promoted": "failed"})


@pytest.mark.parametrize(
    ("promotion", "problem"),
    [
        ({"model": MODEL}, "promotion.metric: the sweep has several objectives (eval_loss and trainable_params), and"),
        ({"model": MODEL, "metric": "eval_loss"}, None),
        ({}, "promotion.model: --promote needs it"),
    ],
)
def test_what_a_promotion_lacks_is_told_before_the_sweep_begins(promotion: dict[str, str], problem: str | None) -> None:
    objectives = [{"metric": "eval_loss"}, {"metric": "trainable_params"}]
    config = SweepConfig.model_validate({"name": "s", "objective": objectives, "promotion": promotion})
    if problem is None:
        sweep_end.check_promotion(config)
        return
    with pytest.raises(ConfigError) as told:
        sweep_end.check_promotion(config)
    assert told.value.problems[0].startswith(problem)
