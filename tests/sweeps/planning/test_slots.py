"""How many slots hosts have together under slots_per_host auto, and how they share them."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_files import toy

from sweeps.planning.capacity import Machine, at_most
from sweeps.planning.plan import Plan, plan
from sweeps.report.plan_lines import plan_lines
from trainables.contract import Need

NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=8)
STOP = {"kind": "asha", "variant": "stop"}
PROMOTE = {"kind": "asha", "variant": "promote"}


def planned(hosts: int, **sections: Any) -> Plan:
    config, space = toy({"training.learning_rate": {"loguniform": [1e-5, 1e-2]}}, **sections)
    return plan(config, space, NEED, Machine("cuda", hosts, 10**6))


@pytest.mark.parametrize(("trials", "third"), [(1, 1), (2, 1), (3, 1), (6, 2), (16, 5)])
@pytest.mark.parametrize(
    ("scheduler", "stops"), [(STOP, True), ({"kind": "median"}, True), (PROMOTE, False), ({"kind": "fifo"}, False)]
)
def test_auto_slots_are_a_third_of_the_trials_where_one_is_judged_by_those_before_it(
    trials: int, third: int, scheduler: dict[str, Any], stops: bool
) -> None:
    assert at_most(toy(budget={"trials": trials}, scheduler=scheduler)[0]) == (third if stops else trials)


def test_eight_gpus_share_the_trials_of_a_sweep_that_parks() -> None:
    parks, stops = (planned(8, budget={"trials": 32}, scheduler=each) for each in (PROMOTE, STOP))
    assert (parks.slots_per_host, parks.slots) == (4, 32)
    assert (stops.slots_per_host, stops.slots) == (2, 10)
    few = planned(8, budget={"trials": 6}, scheduler=STOP)
    assert (few.slots_per_host, few.slots) == (1, 8), "each host has one at least"


def test_shares_of_hosts_add_up_to_their_bound() -> None:
    found = planned(2, budget={"trials": 9})
    assert (found.slots_per_host, found.slots) == (5, 9)
    assert "2 GPU hosts with 4 to 5 slots" in plan_lines(found)[1]
