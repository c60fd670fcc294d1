"""The plan of a sweep by its rungs: steps, the tail, slots and disk, in steps and where rungs count examples."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_files import toy

from sweeps.config import resource
from sweeps.planning.capacity import Machine, at_most
from sweeps.planning.plan import Plan, plan
from sweeps.record.snapshots import KEPT
from sweeps.report.plan_lines import plan_lines
from sweeps.searchers import REPEATED
from trainables.contract import Need

GB = 10**9
NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=8, adapter_bytes=GB, snapshot_bytes=3 * GB)
RATES = {"training.learning_rate": {"loguniform": [1e-5, 1e-2]}}
STOP = {"kind": "asha", "variant": "stop"}
PROMOTE = {"kind": "asha", "variant": "promote"}


def planned_for(hosts: int, space: dict[str, Any], **sections: Any) -> Plan:
    config, parsed = toy({**RATES, **space}, **sections)
    config, wrong = resource.settled(config, parsed, None)
    assert wrong == []
    return plan(config, parsed, NEED, Machine("cuda", hosts, 10**6))


def planned(slots: int = 1, start_with_default: bool = False, repeats: int = 0, **sections: Any) -> Plan:
    searcher = {"kind": "random", "start_with_default": start_with_default, "repeats": repeats}
    return planned_for(1, {}, cluster={"slots_per_host": slots}, searcher=searcher, **sections)


def test_what_promotion_takes_is_known_to_the_step() -> None:
    found = planned(budget={"trials": 64})
    assert (found.expected_steps, found.worst_steps) == (552, 552)
    assert (
        "64 trials, evaluated at steps 3, 9, 27 and 81, where only the best go on; about 552 steps"
        in plan_lines(found)[0]
    )
    assert not any("steps at most" in line for line in plan_lines(found))


def test_slots_and_the_default_configuration_may_add_to_it() -> None:
    found = planned(4, start_with_default=True, budget={"trials": 64})
    assert 552 < found.expected_steps < found.worst_steps < 64 * 81 / 2
    told = "\n".join(plan_lines(found))
    most = f"      {found.worst_steps} steps at most: where each trial is better than all before it, fewer are stopped"
    assert most in plan_lines(found)
    steps = found.forecast.steps
    assert f"about {found.expected_steps} steps in all ({steps.low:.0f} to {steps.high:.0f})\n" in told
    assert 552 <= steps.low < found.expected_steps < steps.high < found.worst_steps


@pytest.mark.parametrize(("trials", "alone"), [(26, True), (27, False)])
def test_too_few_trials_for_a_rank_at_the_last_rung_are_told(trials: int, alone: bool) -> None:
    found = planned(budget={"trials": trials})
    assert found.ends_alone is alone is found.as_json()["ends_alone"]
    told = plan_lines(planned(start_with_default=True, budget={"trials": trials}))
    line = "      with so few trials only the best one and t00 (the sweep file's own values) train to step 81"
    assert (line in told) is alone
    assert planned(budget={"trials": trials}, scheduler={"kind": "fifo"}).ends_alone is False


def test_disk_holds_the_snapshots_of_parked_trials_too() -> None:
    found = planned(2, budget={"trials": 8})
    assert found.disk_bytes == 8 * (GB + KEPT * 3 * GB) + 2 * (GB + (KEPT + 1) * 3 * GB)


def test_a_disk_budget_without_room_for_the_adapters_of_repeats_is_said() -> None:
    (warning,) = planned(repeats=10, budget={"trials": 8, "disk": "38GB"}).warnings
    # What eight parked trials, and one that goes on, would go on from makes room for 27 of the 30 adapters.
    assert " of 8 trials and 30 repeats, and one that replaces another, take 39.00 GB" in warning
    assert planned(repeats=10, budget={"trials": 8, "disk": "39GB"}).warnings == ()
    assert planned(repeats=9, budget={"trials": 8, "disk": "36GB"}).warnings == ()


# Slots


@pytest.mark.parametrize(("trials", "third"), [(1, 1), (16, 5)])
@pytest.mark.parametrize(
    ("scheduler", "stops"), [(STOP, True), ({"kind": "median"}, True), (PROMOTE, False), ({"kind": "fifo"}, False)]
)
def test_auto_slots_are_a_third_of_the_trials_where_one_is_judged_by_those_before_it(
    trials: int, third: int, scheduler: dict[str, Any], stops: bool
) -> None:
    assert at_most(toy(budget={"trials": trials}, scheduler=scheduler)[0]) == (third if stops else trials)


def test_eight_gpus_share_the_trials_of_a_sweep_that_parks() -> None:
    parks, stops = (planned_for(8, {}, budget={"trials": 32}, scheduler=each) for each in (PROMOTE, STOP))
    assert (parks.slots_per_host, parks.slots) == (4, 32)
    assert (stops.slots_per_host, stops.slots) == (2, 10)
    few = planned_for(8, {}, budget={"trials": 6}, scheduler=STOP)
    assert (few.slots_per_host, few.slots) == (1, 8), "each host has one at least"


def test_shares_of_hosts_add_up_to_their_bound() -> None:
    found = planned_for(2, {}, budget={"trials": 9})
    assert (found.slots_per_host, found.slots) == (5, 9)
    assert "2 GPU hosts with 4 to 5 slots" in plan_lines(found)[1]


# Rungs that count examples


@pytest.mark.parametrize("sizes", [[1, 2, 4], [5, 7, 11, 13]])
def test_at_most_is_for_trials_that_all_have_the_smallest_batch(sizes: list[int]) -> None:
    found = planned_for(
        1,
        {"training.batch_size": {"choice": sizes}},
        training={"batch_size": sizes[-1]},
        searcher={"kind": "random", "repeats": 2},
        scheduler={"kind": "fifo"},
        budget={"trials": 8, "steps_per_trial": 9},
    )
    each = -(-found.points[-1] // sizes[0])
    assert found.expected_steps < (8 + 2 * REPEATED) * each <= found.worst_steps


def test_at_most_holds_the_listed_points_with_a_batch_below_the_spaces() -> None:
    points = [{"training.batch_size": 1}]
    searcher = {"kind": "random", "repeats": 1, "points": points, "start_with_default": False}
    sections: dict[str, Any] = {"scheduler": {"kind": "fifo"}, "budget": {"trials": 4, "examples_per_trial": 48}}
    found = planned_for(1, {"training.batch_size": {"choice": [4, 8]}}, searcher=searcher, **sections)
    # As if all had the batch of the listed point.
    assert found.worst_steps == (4 + REPEATED) * 48


def test_a_first_report_at_the_end_names_the_examples_of_a_trial() -> None:
    """The default batch is 4: 10 examples are rounded up to 12, which the 3 steps of scheduler.grace_steps are too."""
    (warning,) = planned_for(1, {}, budget={"trials": 8, "examples_per_trial": 10}).warnings
    assert warning == (
        "scheduler.grace_steps reaches the 12 examples of a trial: no trial can be stopped early; lower grace_steps or "
        "raise budget.examples_per_trial, or what is given in its place"
    )


@pytest.mark.parametrize(("sizes", "share"), [([5, 7, 11, 13], 73), ([1, 2, 4], None), ([4, 6], None)])
def test_batches_without_a_small_common_multiple_are_told_with_the_share(sizes: list[int], share: int | None) -> None:
    """At the first rung of 15 examples a batch of 5 has seen 15, and one of 13 has seen 26."""
    found = planned_for(1, {"training.batch_size": {"choice": sizes}}, training={"batch_size": sizes[0]})
    told = [line for line in found.warnings if "common multiple" in line]
    assert len(told) == (share is not None)
    for line in told:
        assert line.startswith("training.batch_size x training.gradient_accumulation_steps: batches of 5, 7, 11, 13 ")
        assert f"have seen up to {share}% more examples than others; choose batches with a small common" in line
