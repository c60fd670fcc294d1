"""Target modules go by what they mean on the base: equal ones are one trial, impossible ones are none."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from sweep_events import begun, record, recorded
from sweep_files import toy

from sweeps.record.events import TrialState
from sweeps.record.selection import choose
from sweeps.record.sweep_record import SweepRecord, TrialRecord, new_events
from sweeps.report import trial_tables
from sweeps.supply.target_modules import Targets, check_targets, possible_values, settle
from sweeps.supply.trial_source import PlannedTrial, TrialSource, refused_default
from trainables.contract import Target

PRESETS = ["attention-qv", "attention", "mlp", "all-linear"]
SPACE = {"adapter.target_modules": {"choice": PRESETS}, "adapter.r": {"choice": [4, 8]}}
# A mixture of experts whose experts are stacked tensors.
EXPERTS = [
    Target(value="attention-qv", modules=("q_proj", "v_proj")),
    Target(value="attention", modules=("q_proj", "k_proj", "v_proj", "o_proj")),
    Target(value="mlp", problem="adapter.target_modules: mlp matches no layer"),
    Target(value="all-linear", modules=("q_proj", "k_proj", "v_proj", "o_proj")),
    Target(value=("q_proj", "v_proj"), modules=("q_proj", "v_proj")),
]


def drawn(targets: Targets | None, space: Any = SPACE, known: Any = None, **sections: Any) -> list[PlannedTrial]:
    sections = {"searcher": {"kind": "grid"}, "budget": {"trials": 50}} | sections
    config, parsed = toy(space, **sections)
    found = SweepRecord(trials=known or {}, fingerprints={"toy": "1"})
    return list(iter(partial(TrialSource(config, parsed, found, targets).next, found), None))


def modules(trials: list[PlannedTrial]) -> list[tuple[Any, int]]:
    return [(trial.params["target_modules"], trial.spec.adapter.r) for trial in trials]


def test_the_files_own_value_is_asked_first_and_keeps_its_name() -> None:
    config, space = toy(SPACE, adapter={"target_modules": "all-linear"})
    assert possible_values(config, space) == ("all-linear", "attention-qv", "attention", "mlp")
    answers = {answer.value: answer for answer in EXPERTS}
    settled = settle([answers[value] for value in possible_values(config, space)])
    assert settled.stands_for == {"attention": "all-linear"}


def test_equal_values_run_once_under_the_first_of_them() -> None:
    both = [(name, r) for name in ("attention", "attention-qv") for r in (4, 8)]
    assert sorted(modules(drawn(settle(EXPERTS)))) == [*both, ("attention-qv", 16)]


def test_a_sweep_of_a_version_that_ran_both_goes_on_with_both() -> None:
    both = drawn(None, adapter={"r": 4})
    known = recorded(*((trial, TrialState.PAUSED) for trial in both if trial.params["target_modules"] == "all-linear"))
    again = drawn(settle(EXPERTS), known=known, adapter={"r": 4})
    assert known.keys() <= {trial.trial_key for trial in again}


@pytest.mark.parametrize("kind", ["grid", "random"])
def test_a_value_that_cannot_be_trained_is_never_drawn_and_takes_no_number(kind: str) -> None:
    trials = drawn(settle(EXPERTS), searcher={"kind": kind}, budget={"trials": 5})
    assert "mlp" not in {trial.params["target_modules"] for trial in trials}
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4]


def test_without_a_value_that_can_be_trained_the_space_is_empty() -> None:
    mlp = {"adapter": {"target_modules": "mlp"}}
    for none in (toy({"adapter.target_modules": {"choice": ["mlp"]}}), toy({"adapter.r": {"choice": [4]}}, **mlp)):
        assert check_targets(*none, settle(EXPERTS)) == ["adapter.target_modules: mlp matches no layer"]
    assert check_targets(*toy(SPACE, **mlp), settle(EXPERTS)) == []


def test_where_the_field_is_not_always_searched_the_files_own_value_counts_too() -> None:
    when = {"when": {"adapter.r": 4}}
    space = {"adapter.r": {"choice": [4, 8]}, "adapter.target_modules": {"choice": ["mlp"], **when}}
    assert check_targets(*toy(space), settle(EXPERTS)) == []
    assert modules(drawn(settle(EXPERTS), space)) == [("attention-qv", 16), ("attention-qv", 8)]


def test_a_default_that_cannot_be_trained_leaves_its_number_empty() -> None:
    config, space = toy(SPACE, adapter={"target_modules": "mlp"})
    refused = refused_default(config, space, {"toy": "1"}, settle(EXPERTS), 5.0)
    assert (refused.number, refused.reason) == (0, "the default configuration: mlp is left out")
    known = {refused.trial_key: TrialRecord(refused.trial_key, 0, refused.params, state=TrialState.INFEASIBLE)}
    trials = drawn(settle(EXPERTS), known=known, adapter={"target_modules": "mlp"})
    assert [trial.number for trial in trials] == [1, 2, 3, 4]
    assert refused_default(*toy(SPACE), {"toy": "1"}, settle(EXPERTS), 5.0) is None


def test_each_value_is_told_in_one_line_once() -> None:
    events = settle(EXPERTS).events(5.0)
    assert [event.line for event in events] == [
        "adapter.target_modules: all-linear is the same as attention on this model, and runs as that",
        "adapter.target_modules: q_proj,v_proj is the same as attention-qv on this model, and runs as that",
        "adapter.target_modules: mlp matches no layer; mlp is left out",
    ]
    assert [event for event, _ in new_events([*events, *settle(EXPERTS).events(9.0)])] == events
    whole = record([begun(), *events])
    assert trial_tables.notes(whole) == [event.line for event in events]
    assert all(line in trial_tables.markdown(whole, choose(SweepRecord())) for line in trial_tables.notes(whole))
