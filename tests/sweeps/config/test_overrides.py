"""Words after the sweep file change what it says, before anything is checked."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from sweeps.config import load


def changed(raw: dict[str, Any], *changes: str) -> dict[str, Any]:
    assert load.override(raw, changes, lambda _: None) == []
    return raw


def problems(raw: dict[str, Any], *changes: str) -> list[str]:
    return load.override(raw, changes, lambda _: None)


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


def test_later_overrides_win() -> None:
    assert changed({}, "seed=1", "seed=2") == {"seed": 2}


def test_an_empty_section_of_the_file_can_be_filled() -> None:
    assert changed({"budget": None}, "budget.trials=2") == {"budget": {"trials": 2}}


# The search space


def test_what_follows_search_space_is_one_key() -> None:
    raw = changed({"search_space": {"adapter.r": {"choice": [4]}}}, "search_space.training.batch_size={choice: [1, 2]}")
    assert raw["search_space"] == {"adapter.r": {"choice": [4]}, "training.batch_size": {"choice": [1, 2]}}


@pytest.mark.parametrize("raw", [{}, {"search_space": "lora_core"}])
def test_a_named_space_is_written_out_before_a_field_is_changed(raw: dict[str, Any]) -> None:
    space = changed(raw, "search_space.adapter.r={choice: [2]}")["search_space"]
    assert space["adapter.r"] == {"choice": [2]}
    assert space["training.learning_rate"] == {"loguniform": [2e-5, 2e-3], "prior": 5e-4}


def test_the_space_can_be_replaced_whole() -> None:
    assert changed({"search_space": "lora_core"}, "search_space=toy") == {"search_space": "toy"}
    assert changed({}, "search_space={adapter.r: {choice: [2]}}") == {"search_space": {"adapter.r": {"choice": [2]}}}


def test_a_field_of_an_unknown_space_is_left_to_whoever_reads_the_space() -> None:
    assert changed({"search_space": "nope"}, "search_space.adapter.r={choice: [2]}") == {"search_space": "nope"}


# Kinds


def test_another_kind_drops_the_keys_that_it_does_not_have() -> None:
    raw = {"searcher": {"kind": "random", "start_with_default": False}, "scheduler": {"kind": "asha", "grace_steps": 9}}
    assert changed(raw, "searcher.kind=grid", "scheduler.kind=fifo") == {
        "searcher": {"kind": "grid", "start_with_default": False},
        "scheduler": {"kind": "fifo", "grace_steps": 9},
    }
    raw = {"scheduler": {"kind": "asha", "brackets": 3, "grace_steps": 9}}
    assert changed(raw, "scheduler.kind=fifo") == {"scheduler": {"kind": "fifo", "grace_steps": 9}}


def test_an_unknown_kind_drops_them_all_and_is_told_by_the_configuration() -> None:
    raw = {"scheduler": {"kind": "asha", "grace_steps": 9}}
    assert changed(raw, "scheduler.kind=nope") == {"scheduler": {"kind": "nope"}}


@pytest.mark.parametrize("value", ["[asha]", "{a: 1}", "null", "5"])
def test_a_kind_that_is_no_word_is_no_crash(value: str) -> None:
    changed({"scheduler": {"kind": "asha"}}, f"scheduler.kind={value}")


# Mistakes


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("budget.trials", "budget.trials: an override is key=value, for example budget.trials=4"),
        ("=4", "=4: an override is key=value, for example budget.trials=4"),
        ("--trials", "--trials: an override is key=value, for example budget.trials=4"),
        ("budget.trials=[1", "budget.trials: '[1' is not a YAML value; quote it for the shell"),
        ("budget.trials=010", "budget.trials: '010' is the number 8 in YAML: write the number without zeros before"),
        ("name=2026-13-01", "name: '2026-13-01' is not a YAML value"),
        ("seed.x=4", "seed.x: seed is 3, which has no keys"),
        ("budget.trials.x=4", "budget.trials.x: trials is 8, which has no keys"),
    ],
)
def test_a_wrong_override_is_told_and_the_others_are_taken(change: str, problem: str) -> None:
    raw: dict[str, Any] = {"seed": 3, "budget": {"trials": 8}}
    (line,) = problems(raw, change, "storage=here")
    assert line.startswith(problem)
    assert raw == {"seed": 3, "budget": {"trials": 8}, "storage": "here"}


@pytest.mark.parametrize(
    ("change", "typed"),
    [
        ("data.prompt={question}", "'data.prompt=\"{question}\"'"),
        ("data.completion={answer}", "'data.completion=\"{answer}\"'"),
        ("data.text=Title: {title}", "'data.text=\"Title: {title}\"'"),
        ("data.system=Rule: be brief", "'data.system=\"Rule: be brief\"'"),
        ("data.prompt={a} and {b}", "'data.prompt=\"{a} and {b}\"'"),
        ("data.prompt={{q}}", "'data.prompt=\"{{q}}\"'"),
        ('data.prompt=It\'s {q}: "x"', """'data.prompt="It'"'"'s {q}: \\"x\\""'"""),
        ("data.completion=5", "'data.completion=\"5\"'"),
        ("data.completion=010", "'data.completion=\"010\"'"),
    ],
)
def test_text_that_yaml_reads_otherwise_is_told_with_the_words_to_type(change: str, typed: str) -> None:
    raw: dict[str, Any] = {"data": {"prompt": "{p}"}}
    (line,) = problems(raw, change)
    key, _, text = change.partition("=")
    assert line == f"{key}: {text} is not text as YAML reads it; type {typed}"
    # The checks to come look at what was meant.
    assert raw == {"data": {"prompt": "{p}", key.removeprefix("data."): text}}
    # What is to be typed gives that very text.
    (word,) = shlex.split(typed)
    assert changed({}, word) == {"data": {key.removeprefix("data."): text}}


def test_a_text_may_be_taken_back() -> None:
    assert changed({"data": {"system": "x"}}, "data.system=null", "data.prompt=") == {
        "data": {"system": None, "prompt": None}
    }


def test_a_field_cannot_be_added_to_what_is_no_space() -> None:
    (line,) = problems({"search_space": [1]}, "search_space.adapter.r={choice: [1]}")
    assert line == "search_space.adapter.r: search_space is not a mapping of fields to domains"


def test_paths_in_overrides_are_given_to_whoever_resolves_them() -> None:
    seen: list[dict[str, Any]] = []
    load.override({}, ["data.train=rows.jsonl", "model={source: ./m}"], seen.append)
    assert seen == [{"data": {"train": "rows.jsonl"}}, {"model": {"source": "./m"}}]


def test_a_resolved_path_is_what_is_set() -> None:
    def resolve(part: dict[str, Any]) -> None:
        part["data"]["train"] = "/abs/" + part["data"]["train"]

    raw: dict[str, Any] = {"data": {"train": "old", "eval": "kept"}}
    load.override(raw, ["data.train=rows.jsonl"], resolve)
    assert raw == {"data": {"train": "/abs/rows.jsonl", "eval": "kept"}}
