"""What a plan says of a budget of time that is shorter than what it expects, or of unknown reach, and of idle GPUs."""

from __future__ import annotations

import re
from typing import Any

import pytest
from measured_rates import rate
from sweep_files import toy

from sweeps.planning.capacity import Machine
from sweeps.planning.forecast import RowsAndRates
from sweeps.planning.plan import plan
from sweeps.planning.rates import rate_key
from trainables.contract import Need

NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=8)
RATES = {"training.learning_rate": {"loguniform": [1e-5, 1e-2]}}


def warnings(device: Any = "cpu", hosts: int = 1, is_known: bool = True, **sections: Any) -> list[str]:
    config, space = toy(RATES, **sections)
    key = rate_key(config, "here")
    measured = rate(key, step_seconds=10.0, start_seconds=0.0, trial_seconds=0.0)
    planned = plan(
        config, space, NEED, Machine(device, hosts, 10**6), RowsAndRates([measured] if is_known else [], key)
    )
    return [line for line in planned.warnings if line.startswith(("budget.", "cluster.hosts"))]


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


def test_gpu_hours_that_are_too_few_are_told_too() -> None:
    budget = {"trials": 9, "steps_per_trial": 9, "gpu_hours": 0.1}
    scheduler = {"kind": "fifo"}
    (line,) = warnings("cuda", 2, budget=budget, scheduler=scheduler)
    # Of nine trials one host trains five: 45 steps of 10 s, and 10 evaluations of 1 s. Both hosts are paid for.
    assert line.startswith("budget.gpu_hours 0.1 is shorter than the 0.256 GPU-hours that are expected: ")
    assert warnings("cuda", 2, budget={**budget, "gpu_hours": 0.5}, scheduler=scheduler) == []
    assert warnings("cpu", 2, budget=budget, scheduler=scheduler) == []


@pytest.mark.parametrize("field", ["wall_clock", "gpu_hours"])
def test_a_budget_of_unknown_reach_is_told_with_the_ways_to_an_answer(field: str) -> None:
    budget = {"trials": 9, "steps_per_trial": 9, field: {"wall_clock": "1m", "gpu_hours": 1.0}[field]}
    (line,) = warnings("cuda", is_known=False, budget=budget)
    assert line.startswith(f"budget.{field} 1")
    for way_out in ("scheduler.order=paper", "`qsweep plan FILE --calibrate`", "budget.trials=auto"):
        assert way_out in line


@pytest.mark.parametrize("scheduler", [{"order": "paper"}, {"variant": "stop"}, {"kind": "fifo"}, {"grace_steps": 9}])
def test_where_trials_come_to_their_last_step_early_an_unknown_reach_is_no_warning(scheduler: dict[str, Any]) -> None:
    budget = {"trials": 9, "steps_per_trial": 9, "wall_clock": "1m"}
    assert warnings(is_known=False, budget=budget, scheduler=scheduler) == []


@pytest.mark.parametrize(
    ("device", "hosts", "scheduler", "is_told"),
    [("cuda", 8, {}, True), ("cuda", 1, {}, False), ("cpu", 8, {}, False), ("cuda", 8, {"kind": "fifo"}, False)],
)
def test_hosts_that_will_have_no_trial_in_the_last_rung_are_told(
    device: str, hosts: int, scheduler: dict[str, Any], is_told: bool
) -> None:
    """64 trials, of which some two come to the last step."""
    told = warnings(device, hosts, budget={"trials": 64}, cluster={"slots_per_host": 1}, scheduler=scheduler)
    assert len(told) == is_told
    for line in told:
        expected = re.match(r"cluster\.hosts: 8 hosts for (\d) trials that can be expected at the last report: ", line)
        assert expected is not None, line
        assert 2 <= int(expected[1]) < 8
        assert f"`qsweep extend SWEEP cluster.hosts={expected[1]}`" in line
