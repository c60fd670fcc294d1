"""What the plan says of promotion: exact steps, the worst case, the tail, and the room that parked trials take."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_files import toy

from sweeps.planning.capacity import Machine
from sweeps.planning.plan import Plan, plan
from sweeps.record.snapshots import KEPT
from sweeps.report.plan_lines import plan_lines
from trainables.contract import Need

GB = 10**9
NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=8, adapter_bytes=GB, snapshot_bytes=3 * GB)
TWO_RUNGS = {"grace_steps": 2, "reduction_factor": 3}
RATES = {"training.learning_rate": {"loguniform": [1e-5, 1e-2]}}


def planned(slots: int = 1, start_with_default: bool = False, repeats: int = 0, **sections: Any) -> Plan:
    searcher = {"kind": "random", "start_with_default": start_with_default, "repeats": repeats}
    config, space = toy(RATES, cluster={"slots_per_host": slots}, searcher=searcher, **sections)
    return plan(config, space, NEED, Machine("cuda", 1, 10**6))


def test_what_promotion_takes_is_known_to_the_step() -> None:
    found = planned(budget={"trials": 64})
    assert (found.expected_steps, found.worst_steps) == (552, 552)
    assert "64 trials, reports at steps 3, 9, 27, 81; about 552 steps in all" in plan_lines(found)[0]
    assert "at most" not in plan_lines(found)[0]


def test_slots_and_the_default_configuration_may_add_to_it() -> None:
    found = planned(4, start_with_default=True, budget={"trials": 64})
    assert 552 < found.expected_steps < found.worst_steps < 64 * 81 / 2
    told = plan_lines(found)[0]
    assert f"; at most {found.worst_steps}, where each trial is better than those before it and none fails" in told
    steps = found.forecast.steps
    assert f"about {found.expected_steps} steps in all ({steps.low:.0f} to {steps.high:.0f});" in told
    assert 552 <= steps.low < found.expected_steps < steps.high < found.worst_steps


@pytest.mark.parametrize(("trials", "alone"), [(26, True), (27, False)])
def test_too_few_trials_for_a_rank_at_the_last_rung_are_told(trials: int, alone: bool) -> None:
    found = planned(budget={"trials": trials})
    assert found.ends_alone is alone is found.as_json()["ends_alone"]
    assert ("      few trials: the best one goes on to step 81 alone" in plan_lines(found)) is alone
    assert planned(budget={"trials": trials}, scheduler={"kind": "fifo"}).ends_alone is False


def test_as_many_slots_as_trials_still_save_steps() -> None:
    assert planned(16, budget={"trials": 16}).warnings == ()


def test_disk_holds_the_snapshots_of_parked_trials_too() -> None:
    found = planned(2, budget={"trials": 8})
    assert found.disk_bytes == 8 * (GB + KEPT * 3 * GB) + 2 * (GB + (KEPT + 1) * 3 * GB)


def test_a_disk_budget_without_room_for_every_parked_trial_is_said() -> None:
    (warning,) = planned(budget={"trials": 8, "disk": "35GB"}).warnings
    assert warning.startswith(
        "budget.disk 35GB: the largest adapters, and snapshots while they are parked, of 8 trials"
    )
    assert planned(budget={"trials": 8, "disk": "36GB"}).warnings == ()


def test_a_disk_budget_without_room_for_the_adapters_of_repeats_is_said() -> None:
    (warning,) = planned(repeats=10, budget={"trials": 8, "disk": "38GB"}).warnings
    # What eight parked trials, and one that goes on, would go on from makes room for 27 of the 30 adapters.
    assert " of 8 trials and 30 repeats, and one that replaces another, take 39.00 GB" in warning
    assert planned(repeats=10, budget={"trials": 8, "disk": "39GB"}).warnings == ()
    assert planned(repeats=9, budget={"trials": 8, "disk": "36GB"}).warnings == ()


def test_the_range_of_the_steps_is_told() -> None:
    """The other trial is better than the default configuration, and goes on too, or is not: either is as likely."""
    found = planned(2, start_with_default=True, budget={"trials": 2, "steps_per_trial": 6}, scheduler=TWO_RUNGS)
    assert plan_lines(found)[0] == "plan: 2 trials, reports at steps 2, 6; about 10 steps in all (8 to 12)"
