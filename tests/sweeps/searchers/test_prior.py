"""The prior searcher begins with what is known, and believes it the less the more the sweep says otherwise."""

from __future__ import annotations

import itertools
from random import Random
from statistics import mean
from typing import Any

import pytest

import search_spaces
from search_spaces.domains import parse
from search_spaces.space import SearchSpace
from sweeps.searchers import prior
from sweeps.searchers._learner import History

SPACE: dict[str, Any] = {
    "adapter.r": {"choice": [8, 16, 32, 64], "prior": 32},
    "adapter.target_modules": {"choice": ["attention-qv", "mlp", "all-linear"], "prior": "all-linear"},
    "training.learning_rate": {"loguniform": [1e-5, 1e-2], "prior": 3e-4},
}


def point(learning_rate: float, r: int = 32, target_modules: str = "all-linear") -> dict[str, Any]:
    return {"adapter.r": r, "adapter.target_modules": target_modules, "training.learning_rate": learning_rate}


def after(*told: tuple[dict[str, Any], float]) -> History:
    history = History()
    for where, value in told:
        history.tell(where, 27, value, True)
    return history


def first(space: SearchSpace, count: int) -> list[Any]:
    """The first suggestions, each of which is tried."""
    searcher, found = prior.Config().build(space, 4), []
    for _ in range(count):
        found.append(searcher.suggest())
        searcher.tell(found[-1] or {}, 0, None, False)
    return found


def test_what_is_known_comes_first() -> None:
    """The portfolio, without points that the space does not have; without one the point of all priors."""
    space = search_spaces.load("lora_wide")
    *known, other = first(space, len(space.portfolio) + 1)
    assert known == list(space.portfolio) and other not in known
    portfolio = [point(1e-3, r=128), {"adapter.r": 8}, point(1e-3, r=8)]
    assert first(SearchSpace.parse({**SPACE, "portfolio": portfolio}), 1) == [portfolio[-1]]
    assert first(SearchSpace.parse(SPACE), 1) == [point(3e-4)]
    assert prior.Config().check(SearchSpace.parse(SPACE)) == []
    assert len(prior.Config().check(SearchSpace.parse({"adapter.r": {"choice": [8, 16]}}))) == 1


def test_the_weight_of_the_prior_falls_with_the_number_of_results() -> None:
    space = SearchSpace.parse(SPACE)
    told = [(point(3e-4 * 1.01**number), 2.0) for number in range(30)]
    weights = [prior.mixture(space, after(*told[:results]))["prior"] for results in (0, 1, 3, 10, 30)]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == 1 - prior.PLAIN
    assert weights[-1] < 0.1


def test_the_weight_of_the_prior_falls_when_good_points_are_elsewhere() -> None:
    space = SearchSpace.parse(SPACE)
    right = after((point(3e-4), 1.0), (point(4e-4), 1.1), (point(8e-3, 8, "mlp"), 2.0))
    wrong = after((point(3e-4), 2.0), (point(4e-4), 1.9), (point(8e-3, 8, "mlp"), 1.0))
    assert prior.mixture(space, wrong)["prior"] < 0.2 * prior.mixture(space, right)["prior"]
    assert prior.mixture(space, wrong)["best"] > prior.mixture(space, right)["best"]


@pytest.mark.parametrize(
    "raw",
    [
        {"loguniform": [1e-5, 1e-2], "prior": 3e-4},
        {"choice": [8, 16, 32, 64], "prior": 64},
        {"choice": ["mlp", "attention", "all-linear"], "prior": "mlp"},
    ],
)
def test_the_density_is_that_of_the_draws(raw: dict[str, Any]) -> None:
    domain = parse("x", raw)
    assert domain.prior is not None
    rng = Random(0)
    draws: list[Any] = [prior.near(domain, domain.prior, 0.25, rng) for _ in range(20_000)]
    uniform: list[Any] = [domain.sample(rng) for _ in range(20_000)]
    assert all(domain.contains(value) for value in draws)
    densities = [prior.density(domain, domain.prior, 0.25, value) for value in uniform]
    # The density at the middle of a number that is listed stands for all of it.
    is_coarse = domain.is_ordered and domain.size is not None
    assert mean(densities) == pytest.approx(1, rel=0.15 if is_coarse else 0.03)
    are_near = [[each == domain.prior if domain.size else each < 1e-4 for each in found] for found in (uniform, draws)]
    expected = sum(itertools.compress(densities, are_near[0]))
    assert sum(are_near[1]) == pytest.approx(expected, rel=0.15)
