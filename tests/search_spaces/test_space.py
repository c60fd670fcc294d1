"""Spaces: parsing with every problem at once, conditions, grids and draws."""

from __future__ import annotations

import itertools
import json
import re
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
        "a.x: when asks for a.y, a continuous range, which hardly ever has one exact value: give it a choice, or drop "
        "the when",
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
    raw: dict[str, object] = {
        "a.v": {"uniform": [2, 1]},
        "a.w": 8,
        "a.x": {"choice": [1], "when": {"a.y": 9}},
        "a.y": {"choice": [1], "when": {"a.y": 1}},
        # What it waits for has a wrong domain, which is no second problem.
        "a.z": {"choice": [1], "when": {"a.w": 1}},
    }
    assert [line.split(" ")[0] for line in problems(raw)] == ["a.v:", "a.w:", "a.x:", "search_space:"]


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


def test_grid_of_continuous_fields_and_long_ranges_names_them() -> None:
    space = SearchSpace.parse({**WIDE, "a.b": {"randint": [0, MOST_LISTED]}})
    with pytest.raises(SpaceError) as caught:
        space.grid()
    too_many = "values are too many for a grid (at most 10000): write {choice: [value, value]}, or search at random"
    assert caught.value.problems == (f"training.learning_rate: endlessly many {too_many}", f"a.b: 10001 {too_many}")


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
    others = ("adapter.alpha_over_r", "adapter.use_rslora", "adapter.r")
    meets = [SearchSpace.parse(WIDE).may_meet("adapter.lora_alpha", other) for other in others]
    assert meets == [False, True, False]


def test_random_search_goes_through_all_combinations_of_the_grids() -> None:
    grids = {"a.x": {"grid": [1, 2, 3]}, "a.y": {"choice": ["p", "q"]}, "a.z": {"grid": [False, True]}}
    space = SearchSpace.parse({**grids, "a.u": {"uniform": [0, 1]}})
    assert (space.grid_fields, space.grid_size) == (("a.x", "a.z"), 6)
    points = [space.sample(Random(index), index) for index in range(12)]
    taken = [(point["a.x"], point["a.z"]) for point in points]
    assert taken == list(itertools.product((1, 2, 3), (False, True))) * 2
    assert len({point["a.u"] for point in points}) == 12


def test_conditional_grid_field_stays_out_of_the_points_where_it_is_inactive() -> None:
    space = SearchSpace.parse({"a.x": {"grid": [1, 2]}, "a.y": {"grid": [5, 6, 7], "when": {"a.x": 2}}})
    points = [space.sample(Random(0), index) for index in range(space.grid_size)]
    assert points == [{"a.x": 1}] * 3 + [{"a.x": 2, "a.y": value} for value in (5, 6, 7)]


def test_priors_and_a_portfolio_change_no_draw_and_come_back_as_written() -> None:
    plain: dict[str, Any] = {"adapter.r": {"choice": [4, 8]}, "adapter.target_modules": {"choice": [["q_proj"], "mlp"]}}
    known = {"adapter.r": 8, "adapter.target_modules": ["q_proj"]}
    raw = {**plain, "adapter.r": {"choice": [4, 8], "prior": 8}, "portfolio": [known]}
    space = SearchSpace.parse(raw).with_base({})
    assert json.loads(json.dumps(space.to_raw())) == raw
    assert space.domains["adapter.r"].prior == 8
    assert space.portfolio == ({"adapter.r": 8, "adapter.target_modules": ("q_proj",)},)
    without = SearchSpace.parse(plain)
    assert [space.sample(Random(seed)) for seed in range(20)] == [without.sample(Random(seed)) for seed in range(20)]


@pytest.mark.parametrize(
    ("portfolio", "start"),
    [
        ([8], "portfolio: [8] is not a list of points: write [{adapter.r: 16"),
        ([{"adapter.r": None}], "portfolio: adapter.r: null is not a value"),
    ],
)
def test_a_wrong_portfolio_says_what_to_write(portfolio: object, start: str) -> None:
    with pytest.raises(SpaceError, match=f"^{re.escape(start)}"):
        SearchSpace.parse({"adapter.r": {"choice": [4, 8]}, "portfolio": portfolio})


GOOD = {"training.learning_rate": 2e-4, "adapter.use_rslora": True, "adapter.lora_alpha": 8}


def test_space_contains_a_point_with_just_its_active_fields() -> None:
    space = SearchSpace.parse(WIDE)
    assert space.contains(GOOD)
    others: dict[str, dict[str, Any]] = {
        "an unknown field": {**GOOD, "adapter.r": 8},
        "a value outside": {**GOOD, "training.learning_rate": 1.0},
        "an inactive field": {**GOOD, "adapter.alpha_over_r": 1},
        "a missing field": {"training.learning_rate": 2e-4, "adapter.use_rslora": True},
        "nothing": {},
    }
    assert [what for what, point in others.items() if space.contains(point)] == []
