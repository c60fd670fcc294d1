"""What the plan says of promotion: exact steps, the worst case, the tail, and the room that parked trials take."""

from __future__ import annotations

import random
from statistics import fmean
from typing import Any

import pytest
from simulator import Curve, Listed, Setting, simulate
from sweep_files import toy

from sweeps.halving.asha_promote import Promote
from sweeps.planning import virtual_sweep
from sweeps.planning.capacity import Machine
from sweeps.planning.plan import Plan, plan
from sweeps.planning.time_cost import steps_of
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
    steps = found.outlook.steps
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


def test_the_totals_that_can_happen_are_told_where_they_are_few() -> None:
    """The other trial is better than the default configuration, and goes on too, or is not."""
    found = planned(2, start_with_default=True, budget={"trials": 2, "steps_per_trial": 6}, scheduler=TWO_RUNGS)
    assert plan_lines(found)[0] == "plan: 2 trials, reports at steps 2, 6; 8 or 12 steps in all"
    assert found.expected_steps == 10, "either is as likely as the other"


@pytest.mark.parametrize(("trials", "slots"), [(24, 16), (24, 4), (48, 16)])
def test_what_is_expected_is_the_mean_of_many_sweeps(trials: int, slots: int) -> None:
    """Simulated with curves that do not cross; the default configuration ranks anywhere.

    The plan's mean and the one here have standard errors of 1.2 % at most each, so 4 % are more than two of both.
    """
    found = planned(slots, start_with_default=True, budget={"trials": trials, "steps_per_trial": 27})
    rng, setting, totals = random.Random(1), Setting(slots=slots, protects_first=True), []
    for _ in range(100):
        flat = [Curve(rng.random(), 0.0, 1.0) for _ in range(trials)]
        totals.append(simulate(Promote((3, 9, 27), 3), Listed(flat), setting, rng).steps)
    assert found.expected_steps == pytest.approx(fmean(totals), rel=0.04)
    seen = found.outlook.steps
    assert fmean(seen.low <= total <= seen.high for total in totals) > 0.7, "it holds the middle 80 %"


def test_a_default_configuration_among_the_best_takes_fewer_steps() -> None:
    """Which explains most of the range where slots are many: it goes on beside those that rank high, or is one."""
    expected, rng = [], random.Random(1)
    for rank in (0, 20):
        others = [[each for each in range(24) if each != rank] for _ in range(40)]
        plays = [
            virtual_sweep.play(Promote((3, 9, 27), 3), [rank, *rng.sample(rest, 23)], 1, 16, True) for rest in others
        ]
        expected.append(fmean(steps_of((3, 9, 27), play.counts) for play in plays))
    assert expected[0] < 0.85 * expected[1]
