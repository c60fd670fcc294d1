"""What a space says of its best values before anything is measured: priors of fields, and points to try first."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import search_spaces
from search_spaces import SpaceError
from search_spaces.domains import parse
from search_spaces.space import SearchSpace

RATES = {"loguniform": [1e-5, 1e-2]}
DOMAINS: list[dict[str, Any]] = [
    RATES,
    {"uniform": [-1.0, 3.0]},
    {"randint": [2, 9]},
    {"quniform": [0.1, 0.9, 0.1]},
    {"qloguniform": [8, 64, 8]},
    {"qrandint": [8, 64, 8]},
    {"choice": [64, 8, 16, 32]},
    {"grid": [0.0, 0.1]},
]


@pytest.mark.parametrize("name", ["lora_core", "lora_wide"])
def test_every_point_of_a_portfolio_is_a_point_of_its_space(name: str) -> None:
    space = search_spaces.load(name)
    assert len(space.portfolio) >= 2
    assert [point for point in space.portfolio if not space.contains(point)] == []


def test_a_prior_changes_no_draw_and_comes_back_as_written() -> None:
    raw = {"adapter.r": {"choice": [4, 8], "prior": 8}, "training.learning_rate": {**RATES, "prior": 3e-4}}
    space = SearchSpace.parse(raw)
    assert space.domains["training.learning_rate"].prior == 3e-4
    assert json.loads(json.dumps(space.to_raw())) == raw
    plain = SearchSpace.parse({"adapter.r": {"choice": [4, 8]}, "training.learning_rate": RATES})
    assert [space.sample(Random(seed)) for seed in range(20)] == [plain.sample(Random(seed)) for seed in range(20)]


@pytest.mark.parametrize(
    ("domain", "problem"),
    [
        (
            {**RATES, "prior": 0.1},
            "x: prior 0.1 is not a value of {loguniform: [1e-05, 0.01]}: write one of its values, or remove it",
        ),
        (
            {"quniform": [0.0, 0.2, 0.05], "prior": 0.12},
            "x: prior 0.12 is not a value of {quniform: [0.0, 0.2, 0.05]}: write one of its values, or remove it",
        ),
        ({**RATES, "prior": "3e-4"}, "x: prior: '3e-4' is a word, not a number: write 3e-4 without quotes"),
    ],
)
def test_a_wrong_prior_says_what_to_write(domain: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpaceError) as caught:
        parse("x", domain)
    assert caught.value.problems == (problem,)


def test_a_portfolio_comes_back_as_written_and_is_kept_with_the_base() -> None:
    portfolio = [{"adapter.r": 8, "adapter.target_modules": ["q_proj"]}]
    raw = {
        "adapter.r": {"choice": [4, 8]},
        "adapter.target_modules": {"choice": [["q_proj"], "mlp"]},
        "portfolio": portfolio,
    }
    space = SearchSpace.parse(raw).with_base({})
    assert space.portfolio == ({"adapter.r": 8, "adapter.target_modules": ("q_proj",)},)
    assert json.loads(json.dumps(space.to_raw())) == raw
    assert list(space.domains) == ["adapter.r", "adapter.target_modules"]


@pytest.mark.parametrize(
    ("portfolio", "start"),
    [
        ([8], "portfolio: [8] is not a list of points: write [{adapter.r: 16"),
        ([{"adapter.r": None}], "portfolio: adapter.r: null is not a value"),
    ],
)
def test_a_wrong_portfolio_says_what_to_write(portfolio: object, start: str) -> None:
    with pytest.raises(SpaceError) as caught:
        SearchSpace.parse({"adapter.r": {"choice": [4, 8]}, "portfolio": portfolio})
    (problem,) = caught.value.problems
    assert problem.startswith(start)


@given(st.sampled_from(DOMAINS), st.integers(0, 2**32))
def test_the_value_at_the_position_of_a_value_is_that_value(raw: dict[str, Any], seed: int) -> None:
    domain = parse("x", raw)
    value = domain.sample(Random(seed))
    assert domain.is_ordered
    assert domain.at(domain.position(value)) == value


@given(st.sampled_from(DOMAINS), st.floats(0, 1), st.floats(0, 1))
def test_values_at_positions_are_of_the_domain_and_in_order(raw: dict[str, Any], one: float, other: float) -> None:
    domain = parse("x", raw)
    low, high = (domain.at(position) for position in sorted([one, other]))
    assert domain.contains(low)
    assert domain.contains(high)
    assert low <= high  # type: ignore[operator]


@pytest.mark.parametrize("raw", DOMAINS, ids=str)
def test_a_number_outside_stands_at_the_nearest_end(raw: dict[str, Any]) -> None:
    domain = parse("x", raw)
    ends: Any = sorted(domain.extremes())
    assert domain.at(domain.position(ends[-1] * 10 + 1)) == ends[-1]
    assert domain.at(domain.position(ends[0] - 1e-6)) == ends[0]


def test_words_and_flags_have_no_order() -> None:
    assert not parse("x", {"choice": [False, True]}).is_ordered
    assert not parse("x", {"choice": [1, "mlp"]}).is_ordered
