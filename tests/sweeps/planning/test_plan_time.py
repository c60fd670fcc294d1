"""What a plan says of a budget of time that is shorter than what it expects."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_files import toy

from sweeps.planning.outlook import Known
from sweeps.planning.plan import Machine, plan
from sweeps.planning.rate_store import rate_key
from sweeps.planning.rates import Rate
from trainables.contract import Need

NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=8)
RATES = {"training.learning_rate": {"loguniform": [1e-5, 1e-2]}}


def warnings(**sections: Any) -> list[str]:
    config, space = toy(RATES, **sections)
    key = rate_key(config, "here")
    assert key is not None
    rate = Rate(
        key=key,
        tokens_per_step=0,
        slots=1,
        step_seconds=10,
        evaluation_seconds=1,
        evaluation_rows=0,
        row_tokens=0,
        start_seconds=0,
        trial_seconds=0,
        spread=0,
        steps=100,
        time=0,
    )
    planned = plan(config, space, NEED, Machine("cpu", 1, 10**6), Known([rate], key))
    return [line for line in planned.warnings if "wall_clock" in line]


def test_a_wall_clock_that_is_long_enough_is_not_spoken_of() -> None:
    assert warnings(budget={"trials": 9, "steps_per_trial": 9, "wall_clock": "10h"}) == []


@pytest.mark.parametrize(
    ("scheduler", "has_other_order"),
    [({}, True), ({"order": "paper"}, False), ({"variant": "stop"}, False), ({"kind": "fifo"}, False)],
)
def test_a_wall_clock_that_is_too_short_is_told_with_the_ways_out(
    scheduler: dict[str, Any], has_other_order: bool
) -> None:
    (line,) = warnings(budget={"trials": 9, "steps_per_trial": 9, "wall_clock": "1m"}, scheduler=scheduler)
    assert line.startswith("budget.wall_clock 1m is shorter than the ")
    assert "lower budget.trials or set it to auto" in line
    assert ("scheduler.order=paper" in line) is has_other_order
