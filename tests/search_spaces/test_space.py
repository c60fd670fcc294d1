"""Spaces: parsing with every problem at once, conditions, grids and draws."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any

import pytest

from search_spaces import SpaceError
from search_spaces.space import MOST_LISTED, SearchSpace

WIDE = {
    "training.learning_rate": {"loguniform": [1e-5, 1e-3]},
    "adapter.lora_alpha": {"choice": [8, 16], "when": {"adapter.use_rslora": True}},
    "adapter.alpha_over_r": {"choice": [1, 2, 4], "when": {"adapter.use_rslora": False}},
    "adapter.use_rslora": {"choice": [False, True]},
}
CHAIN = {
    "a.x": {"choice": [1, 2]},
    "a.y": {"choice": [1, 2], "when": {"a.x": 2}},
    "a.z": {"choice": [1, 2, 3], "when": {"a.y": [1]}},
}


def problems(raw: object) -> tuple[str, ...]:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.parse(raw)
    return caught.value.problems


WRONG: list[tuple[object, str]] = [
    (None, "search_space: null is not a mapping of fields: write {adapter.r: {choice: [8, 16]}}"),
    ({}, "search_space: is empty: name at least one field, for example adapter.r: {choice: [8, 16]}"),
    ({3: {"choice": [1]}}, "search_space: 3 is not a field: write its dotted name, such as adapter.r"),
    (
        {"a.x": {"choice": [1], "when": {"a.y": 3}}, "a.y": {"choice": [1, 2]}},
        "a.x: when asks for a.y 3, which it never takes: use one of [1, 2]",
    ),
    (
        {"a.x": {"choice": [1], "when": {"a.y": [1, True]}}, "a.y": {"randint": [0, 99]}},
        "a.x: when asks for a.y true, which it never takes: use one of {randint: [0, 99]}",
    ),
    (
        {"a.x": {"choice": [1], "when": {"a.y": 0.5}}, "a.y": {"uniform": [0, 1]}},
        (
            "a.x: when asks for a.y, a continuous range, which hardly ever has one exact value: "
            "give it a choice, or drop the when"
        ),
    ),
    (
        {
            "a.start": {"choice": [1], "when": {"a.x": 1}},
            "a.x": {"choice": [1], "when": {"a.y": 1}},
            "a.y": {"choice": [1], "when": {"a.z": 1}},
            "a.z": {"choice": [1], "when": {"a.x": 1}},
        },
        "search_space: the conditions a.x -> a.y -> a.z -> a.x wait on each other: remove one when",
    ),
]


@pytest.mark.parametrize(("raw", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_space_is_refused_with_the_reason(raw: object, message: str) -> None:
    assert problems(raw) == (message,)


def test_all_problems_of_a_space_are_told_at_once() -> None:
    told = problems(
        {
            "a.v": {"uniform": [2, 1]},
            "a.w": 8,
            "a.x": {"choice": [1], "when": {"a.y": 9}},
            "a.y": {"choice": [1], "when": {"a.y": 1}},
        }
    )
    assert [line.split(" ")[0] for line in told] == ["a.v:", "a.w:", "a.x:", "search_space:"]


def test_condition_on_a_field_with_a_wrong_domain_is_no_second_problem() -> None:
    assert len(problems({"a.x": {"choice": [1], "when": {"a.y": 1}}, "a.y": [1]})) == 1


def test_inactive_field_meets_no_condition_while_its_base_value_is_unknown() -> None:
    assert list(SearchSpace.parse(CHAIN).grid()) == [
        {"a.x": 1},
        {"a.x": 2, "a.y": 1, "a.z": 1},
        {"a.x": 2, "a.y": 1, "a.z": 2},
        {"a.x": 2, "a.y": 1, "a.z": 3},
        {"a.x": 2, "a.y": 2},
    ]


def test_inactive_field_counts_with_its_base_value() -> None:
    space = SearchSpace.parse(CHAIN).with_base({"a.x": 9, "a.y": 1})
    assert {"a.x": 1, "a.z": 3} in list(space.grid())
    assert space.size() == len(list(space.grid())) == 7


def test_condition_on_a_field_outside_the_space_looks_at_the_base() -> None:
    space = SearchSpace.parse({"a.x": {"choice": [1, 2], "when": {"b.y": ["u", "v"]}}, "a.z": {"choice": [1]}})
    assert space.condition_fields() == ("b.y",)
    assert space.with_base({"b.y": "v"}).size() == 2
    assert list(space.with_base({"b.y": "w"}).grid()) == [{"a.z": 1}]
    with pytest.raises(SpaceError, match=r"a\.x: when asks for b\.y, whose value is not known here"):
        space.sample(Random(0))


def test_grid_of_a_continuous_field_names_it() -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.parse({**WIDE, "a.b": {"uniform": [0, 1]}}).grid()
    assert [line.split(": ")[0] for line in caught.value.problems] == ["training.learning_rate", "a.b"]
    assert caught.value.problems[1] == (
        "a.b: endlessly many values are too many for a grid (at most 10000): "
        "write {choice: [value, value]}, or search at random"
    )


def test_grid_of_a_very_long_range_is_refused() -> None:
    space = SearchSpace.parse({"a.b": {"randint": [0, MOST_LISTED]}})
    with pytest.raises(SpaceError, match=r"a\.b: 10001 values are too many for a grid \(at most 10000\)"):
        space.grid()
    assert space.size() == MOST_LISTED + 1


def test_size_of_what_no_condition_ties_needs_no_list() -> None:
    raw = {"a.n": {"randint": [1, 10**12]}, "a.x": {"choice": [1, 2]}, "a.y": {"choice": [5], "when": {"a.x": 2}}}
    assert SearchSpace.parse(raw).size() == 2 * 10**12


@pytest.mark.parametrize(
    "raw",
    [
        {"a.x": {"uniform": [0, 1], "when": {"a.y": 2}}, "a.y": {"choice": [1, 2]}},
        {"a.n": {"randint": [0, MOST_LISTED]}, "a.x": {"choice": [1, 2], "when": {"a.n": 5}}},
        {
            f"a.{n}": {"choice": [1, 2], "when": {f"a.{n + 1}": [1, 2]}} if n < 60 else {"choice": [1, 2]}
            for n in range(61)
        },
    ],
    ids=["continuous", "long", "many"],
)
def test_points_without_end_or_too_many_to_list_are_not_counted(raw: dict[str, Any]) -> None:
    assert SearchSpace.parse(raw).size() is None


def test_fields_whose_conditions_ask_one_field_for_different_values_never_meet() -> None:
    space = SearchSpace.parse(WIDE)
    assert not space.may_meet("adapter.lora_alpha", "adapter.alpha_over_r")
    assert space.may_meet("adapter.lora_alpha", "adapter.use_rslora")
    assert not space.may_meet("adapter.lora_alpha", "adapter.r")


GRIDS = {
    "a.x": {"grid": [1, 2, 3]},
    "a.y": {"choice": ["p", "q"]},
    "a.z": {"grid": [False, True]},
    "a.u": {"uniform": [0, 1]},
}


def test_random_search_goes_through_all_combinations_of_the_grids() -> None:
    space = SearchSpace.parse(GRIDS)
    assert space.grid_fields == ("a.x", "a.z")
    assert space.grid_size == 6
    points = [space.sample(Random(index), index) for index in range(12)]
    taken = [(point["a.x"], point["a.z"]) for point in points]
    assert taken == list(itertools.product((1, 2, 3), (False, True))) * 2
    assert len({point["a.u"] for point in points}) == 12


def test_conditional_grid_field_stays_out_of_the_points_where_it_is_inactive() -> None:
    space = SearchSpace.parse({"a.x": {"grid": [1, 2]}, "a.y": {"grid": [5, 6, 7], "when": {"a.x": 2}}})
    points = [space.sample(Random(0), index) for index in range(space.grid_size)]
    assert points == [{"a.x": 1}] * 3 + [{"a.x": 2, "a.y": value} for value in (5, 6, 7)]


GOOD = {"training.learning_rate": 2e-4, "adapter.use_rslora": True, "adapter.lora_alpha": 8}
OUTSIDE: list[tuple[str, dict[str, Any]]] = [
    ("an unknown field", {**GOOD, "adapter.r": 8}),
    ("a value outside", {**GOOD, "training.learning_rate": 1.0}),
    ("an inactive field", {**GOOD, "adapter.alpha_over_r": 1}),
    ("a missing field", {"training.learning_rate": 2e-4, "adapter.use_rslora": True}),
    ("nothing", {}),
]


def test_space_contains_a_point_with_just_its_active_fields() -> None:
    assert SearchSpace.parse(WIDE).contains(GOOD)


@pytest.mark.parametrize(("what", "point"), OUTSIDE, ids=[what for what, _ in OUTSIDE])
def test_space_does_not_contain_a_point_with(what: str, point: dict[str, Any]) -> None:
    assert not SearchSpace.parse(WIDE).contains(point)
