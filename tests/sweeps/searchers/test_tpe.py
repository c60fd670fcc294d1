"""TPE learns: from every rung, from what diverges, from what cannot be trained, and from what is still open."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from search_spaces.space import SearchSpace
from sweeps.searchers import _parzen, tpe
from sweeps.searchers._learner import History
from trainables.contract import FailureKind

SPACE = SearchSpace.parse(
    {
        "adapter.r": {"choice": [8, 16, 32, 64]},
        "adapter.target_modules": {"choice": ["attention-qv", "mlp"]},
        "training.learning_rate": {"loguniform": [1e-5, 1e-2]},
    }
)
LATER = 30
"""Suggestions that are looked at, after as many that are told."""


def decades(point: dict[str, Any]) -> float:
    """How far the learning rate is from the best one."""
    return abs(math.log10(point["training.learning_rate"] / 1e-3))


def loss(point: dict[str, Any]) -> float:
    return 1 + decades(point) + (0.3 if point["adapter.target_modules"] == "mlp" else 0.0)


def later(
    outcome: Callable[[dict[str, Any]], float | FailureKind], resource: int = 3, is_final: bool = False
) -> list[dict[str, Any]]:
    """Points that are suggested once 30 others were told."""
    searcher = tpe.Config().build(SPACE, 0)
    found = []
    for _ in range(30 + LATER):
        point: Any = searcher.suggest()
        searcher.tell(point, resource, outcome(point), is_final)
        found.append(point)
    return found[30:]


@pytest.mark.parametrize("is_final", [False, True])
def test_later_points_are_near_the_best_whether_trials_ended_or_were_parked(is_final: bool) -> None:
    points = later(loss, is_final=is_final)
    near = [point for point in points if decades(point) < 0.5 and point["adapter.target_modules"] == "attention-qv"]
    assert len(near) > 0.6 * LATER  # at random a sixth


@pytest.mark.parametrize("failure", ["diverged", "infeasible", "out_of_memory"])
def test_what_cannot_be_trained_is_avoided(failure: FailureKind) -> None:
    points = later(lambda point: failure if point["adapter.r"] >= 32 else loss(point))
    assert sum(point["adapter.r"] >= 32 for point in points) < 0.25 * LATER  # at random half


def test_a_fault_of_the_machine_teaches_nothing() -> None:
    points = later(lambda point: "failed" if point["adapter.r"] >= 32 else 1.0)
    assert sum(point["adapter.r"] >= 32 for point in points) > 0.25 * LATER
    assert points != later(lambda point: 1.0)


def test_a_point_that_was_told_further_on_replaces_its_earlier_result() -> None:
    """Otherwise the estimator would take the value of one rung for that of another."""
    searcher = tpe.Config().build(SPACE, 0)
    again = tpe.Config().build(SPACE, 0)
    for _ in range(15):
        point: Any = searcher.suggest()
        again.suggest()
        for resource in (1, 3, 9):
            searcher.tell(point, resource, loss(point) / resource, False)
        again.tell(point, 9, loss(point) / 9, False)
    assert searcher.suggest() == again.suggest()


def test_optuna_is_loaded_only_once_it_is_needed() -> None:
    code = "import sys, sweeps.searchers.prior, sweeps.searchers.tpe; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_open_points_push_others_away() -> None:
    searcher = tpe.Config().build(SPACE, 0)
    for _ in range(20):
        point: Any = searcher.suggest()
        searcher.tell(point, 27, loss(point), True)
    at_once: list[Any] = []
    for _ in range(20):
        at_once.append(searcher.suggest())
        searcher.tell(at_once[-1], 0, None, False)
    assert len({tuple(point.values()) for point in at_once}) == 20
    assert max(decades(point) for point in at_once[10:]) > 1.0


def test_of_many_points_the_best_the_open_and_the_latest_ones_are_learned_from(monkeypatch) -> None:
    monkeypatch.setattr(_parzen, "MOST_POINTS", 20)
    monkeypatch.setattr(_parzen, "BEST", 5)
    history = History()
    for number in range(100):
        point = {"training.learning_rate": 1e-5 * (1 + number)}
        outcome = None if number in (30, 31) else 1.0 if 10 <= number < 15 else 2.0 + number
        history.tell(point, 3, outcome, False)
    given = [list(history.seen).index(seen) for seen in _parzen._given(history)]
    assert given == [*range(10, 15), 30, 31, *range(87, 100)]
    monkeypatch.setattr(_parzen, "MOST_POINTS", 100)
    assert _parzen._given(history) == list(history.seen)
