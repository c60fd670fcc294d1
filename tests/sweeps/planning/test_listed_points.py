"""What the plan says of searcher.points that are never tried."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_files import toy

from sweeps.planning.plan import Machine, plan
from trainables.contract import Need

NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=8)
SPACE = {"adapter.r": {"randint": [1, 64]}, "training.learning_rate": {"loguniform": [1e-5, 1e-2]}}


def warnings(points: list[dict[str, Any]], trials: int, starts_with_default: bool = True) -> list[str]:
    searcher = {"kind": "random", "points": points, "start_with_default": starts_with_default}
    config, space = toy(SPACE, searcher=searcher, budget={"trials": trials})
    found = plan(config, space, NEED, Machine("cpu", 1, 10**6))
    return [line for line in found.warnings if line.startswith("searcher.points")]


def test_points_beyond_the_trials_are_counted() -> None:
    listed = [{"adapter.r": rank} for rank in (1, 2, 3, 4)]
    assert warnings(listed, 5) == []
    assert warnings(listed, 4, starts_with_default=False) == []
    assert warnings(listed, 3) == [
        "searcher.points: 2 of 4 are beyond budget.trials 3, which counts the default configuration too, and are never "
        "tried: raise budget.trials to 5, or list fewer points"
    ]
    (line,) = warnings(listed, 3, starts_with_default=False)
    assert line.startswith("searcher.points: 1 of 4 are beyond budget.trials 3, and are never tried: ")


def test_points_that_are_listed_twice_are_counted_once() -> None:
    listed = [{"adapter.r": 2}, {"adapter.r": 3}, {"adapter.r": 2}]
    assert warnings(listed, 3) == [
        "searcher.points: 1 of 3 repeat others or the default configuration, and equal points run once: remove them"
    ]
    (line,) = warnings([*listed, {}], 8)
    assert line.startswith("searcher.points: 2 of 4 repeat ")
    assert len(warnings([*listed, {}], 8, starts_with_default=False)) == 1


@pytest.mark.parametrize("starts_with_default", [True, False])
def test_a_sweep_without_listed_points_is_not_warned(starts_with_default: bool) -> None:
    assert warnings([], 1, starts_with_default) == []
