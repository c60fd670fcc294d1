"""Words after the sweep file change what it says, before anything is checked; and numbers of the environment."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.config import environment, load
from sweeps.errors import ConfigError


def changed(raw: dict[str, Any], *changes: str) -> dict[str, Any]:
    assert load.override(raw, changes, lambda _: None) == []
    return raw


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seed=3", {"budget": {"trials": 8}, "seed": 3}),
        ("budget.trials=4", {"budget": {"trials": 4}}),
        ("budget.wall_clock=2h", {"budget": {"trials": 8, "wall_clock": "2h"}}),
        ("training.learning_rate=2e-4", {"budget": {"trials": 8}, "training": {"learning_rate": 0.0002}}),
        ("adapter.target_modules=[q, v]", {"budget": {"trials": 8}, "adapter": {"target_modules": ["q", "v"]}}),
        ("budget={trials: 2}", {"budget": {"trials": 2}}),
        ("budget=null", {"budget": None}),
        ("budget.wall_clock=", {"budget": {"trials": 8, "wall_clock": None}}),
        ("model.facts.layers=3", {"budget": {"trials": 8}, "model": {"facts": {"layers": 3}}}),
        ("data.prompt='a=b'", {"budget": {"trials": 8}, "data": {"prompt": "a=b"}}),
    ],
)
def test_an_override_sets_one_key_and_leaves_the_rest(change: str, expected: dict[str, Any]) -> None:
    assert changed({"budget": {"trials": 8}}, change) == expected


def test_what_follows_search_space_is_one_key() -> None:
    raw = changed({"search_space": {"adapter.r": {"choice": [4]}}}, "search_space.training.batch_size={choice: [1, 2]}")
    assert raw["search_space"] == {"adapter.r": {"choice": [4]}, "training.batch_size": {"choice": [1, 2]}}


@pytest.mark.parametrize("raw", [{}, {"search_space": "lora_core"}])
def test_a_named_space_is_written_out_before_a_field_is_changed(raw: dict[str, Any]) -> None:
    space = changed(raw, "search_space.adapter.r={choice: [2]}")["search_space"]
    assert space["adapter.r"] == {"choice": [2]}
    assert space["training.learning_rate"] == {"loguniform": [2e-5, 2e-3], "prior": 5e-4}


def test_another_kind_drops_the_keys_that_it_does_not_have() -> None:
    raw = {"searcher": {"kind": "random", "start_with_default": False}, "scheduler": {"kind": "asha", "grace_steps": 9}}
    assert changed(raw, "searcher.kind=grid", "scheduler.kind=fifo") == {
        "searcher": {"kind": "grid", "start_with_default": False},
        "scheduler": {"kind": "fifo", "grace_steps": 9},
    }
    unknown = {"scheduler": {"kind": "asha", "grace_steps": 9}}
    assert changed(unknown, "scheduler.kind=nope") == {"scheduler": {"kind": "nope"}}, "the configuration tells of it"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("budget.trials", "budget.trials: an override is key=value, for example budget.trials=4"),
        ("budget.trials=010", "budget.trials: '010' is the number 8 in YAML: write the number without zeros before it"),
        ("seed.x=4", "seed.x: seed is 3, which has no keys"),
        ("budget.trials.x=4", "budget.trials.x: trials is 8, which has no keys"),
    ],
)
def test_a_wrong_override_is_told_and_the_others_are_taken(change: str, problem: str) -> None:
    raw: dict[str, Any] = {"seed": 3, "budget": {"trials": 8}}
    (line,) = load.override(raw, [change, "storage=here"], lambda _: None)
    assert line.startswith(problem)
    assert raw == {"seed": 3, "budget": {"trials": 8}, "storage": "here"}


@pytest.mark.parametrize("text", ["{question}", "Title: {title}", "{a} and {b}", "{{q}}", 'It\'s {q}: "x"', "5", "010"])
def test_a_template_that_yaml_reads_otherwise_is_taken_as_it_was_typed(text: str) -> None:
    assert changed({"data": {"prompt": "{p}"}}, f"data.prompt={text}") == {"data": {"prompt": text}}


def test_a_text_may_be_quoted_and_taken_back() -> None:
    text = {"data": {"system": None, "prompt": None, "text": "{q}"}}
    assert changed({"data": {"system": "x"}}, "data.system=null", "data.prompt=", 'data.text="{q}"') == text


def test_a_number_of_the_environment_is_within_its_bounds_or_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QSWEEP_X", raising=False)
    assert environment.number("QSWEEP_X", 60.0, 1.0, 100.0) == 60
    for given, number in (("1", 1), (" 1e2 ", 100)):
        monkeypatch.setenv("QSWEEP_X", given)
        assert environment.number("QSWEEP_X", 60.0, 1.0, 100.0) == number
    for wrong in ("", "nan", "0.9", "101", "\x1b[31m"):
        monkeypatch.setenv("QSWEEP_X", wrong)
        with pytest.raises(ConfigError, match=r"^QSWEEP_X: [ -~]* must be a number from 1 to 100$"):
            environment.number("QSWEEP_X", 60.0, 1.0, 100.0)
