"""The contract of searchers, held by every module in sweeps/searchers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any, NamedTuple

import pytest

import search_spaces
from search_spaces.space import Point, SearchSpace
from sweeps.config import components
from sweeps.searchers import Searcher
from trainables.contract import FailureKind

NAMES = sorted(components.modules("searchers"))
DEAF = ["grid", "random"]
"""Those that do not learn."""
FINITE = SearchSpace.parse(
    {
        "adapter.r": {"choice": [8, 16, 32], "prior": 16},
        "adapter.target_modules": {"choice": ["mlp", ["q_proj", "v_proj"]]},
        "training.batch_size": {"grid": [1, 2]},
    }
)
CONDITIONAL = search_spaces.load("lora_wide")
EVERY_FORM = SearchSpace.parse(
    {
        "adapter.r": {"qrandint": [8, 64, 8], "prior": 16},
        "adapter.lora_dropout": {"uniform": [0.0, 0.2]},
        "training.learning_rate": {"loguniform": [1e-5, 1e-2], "prior": 3e-4},
        "training.batch_size": {"randint": [1, 9]},
        "training.weight_decay": {"quniform": [0.0, 0.5, 0.1]},
        "training.max_grad_norm": {"qloguniform": [0.5, 4.0, 0.5]},
    }
)
SPACES = {"finite": FINITE, "conditional": CONDITIONAL, "every form": EVERY_FORM}
PAIRS = [
    (name, space)
    for name in NAMES
    for space in SPACES
    if not components.modules("searchers")[name].Config().check(SPACES[space])
]
EVERY = pytest.mark.parametrize("name", NAMES)
EVERY_PAIR = pytest.mark.parametrize(("name", "space"), PAIRS)


class Call(NamedTuple):
    """What a searcher was told."""

    point: Mapping[str, Any]
    resource: int
    outcome: float | FailureKind | None
    is_final: bool


def build(name: str, space: SearchSpace, seed: int = 0) -> Searcher:
    searcher: Searcher = components.modules("searchers")[name].Config().build(space, seed)
    return searcher


def outcomes(point: Mapping[str, Any], rng: Random) -> list[Call]:
    """What happens to a point: most are told at one to three rungs, some fail."""
    failures: list[FailureKind] = ["diverged", "infeasible", "out_of_memory", "failed"]
    if rng.random() < 0.3:
        return [Call(point, rng.choice([0, 3]), rng.choice(failures), False)]
    rungs = [3, 9, 27][: rng.randint(1, 3)]
    return [Call(point, rung, rng.uniform(1, 2) / rung, rung == 27) for rung in rungs]


def played(searcher: Searcher, suggestions: int, seed: int = 5) -> list[Call | Mapping[str, Any] | None]:
    """Points and calls as they come when two trials run at a time."""
    rng = Random(seed)
    story: list[Call | Mapping[str, Any] | None] = []
    running: list[Mapping[str, Any]] = []
    for _ in range(suggestions):
        point = searcher.suggest()
        story.append(point)
        if point is None:
            break
        running.append(point)
        calls = [Call(point, 0, None, False), *(outcomes(running.pop(0), rng) if len(running) > 1 else [])]
        for call in calls:
            searcher.tell(*call)
            story.append(call)
    return story


def suggested(story: list[Call | Mapping[str, Any] | None]) -> list[Mapping[str, Any]]:
    return [item for item in story if isinstance(item, Mapping)]


def test_the_searchers_are_these() -> None:
    assert NAMES == ["grid", "prior", "random", "tpe"]


@EVERY
def test_a_configuration_comes_back_from_json_and_has_the_common_keys(name: str) -> None:
    assert components.available("searchers")[name].endswith((".", ":"))
    points = [{"adapter.r": 8, "adapter.target_modules": ["q_proj"]}]
    config = components.modules("searchers")[name].Config(start_with_default=False, points=points)
    assert config.kind == name
    assert config.points[0]["adapter.target_modules"] == ("q_proj",)
    assert type(config).model_validate(json.loads(config.model_dump_json())) == config


@EVERY_PAIR
def test_every_point_is_one_of_the_space_and_the_same_calls_give_the_same_points(name: str, space: str) -> None:
    story = played(build(name, SPACES[space]), 30)
    points = suggested(story)
    assert len(points) >= 12
    assert [point for point in points if not SPACES[space].contains(point)] == []
    again = build(name, SPACES[space])
    for item in story:
        if isinstance(item, Call):
            again.tell(*item)
        else:
            assert again.suggest() == item


@EVERY_PAIR
def test_a_searcher_that_is_told_the_past_again_goes_on_with_the_same_points(name: str, space: str) -> None:
    """Those that do not learn give their first points again, which the caller has and drops."""
    lived = build(name, SPACES[space])
    story = played(lived, 8 if space == "finite" else 30)
    again = build(name, SPACES[space])
    past = suggested(story)
    for item in story:
        if isinstance(item, Call):
            again.tell(*item)
    if name in DEAF:
        assert [again.suggest() for _ in past] == past
    for _ in range(3):
        expected = lived.suggest()
        assert again.suggest() == expected
        for searcher in (lived, again):
            searcher.tell(expected or {}, 0, None, False)


@EVERY_PAIR
def test_points_that_the_caller_drops_are_followed_by_others(name: str, space: str) -> None:
    searcher = build(name, SPACES[space])
    dropped = [searcher.suggest() for _ in range(12)]
    assert len({str(point) for point in dropped}) >= 6


@EVERY
def test_every_point_of_a_small_space_comes_once_before_any_is_missed(name: str) -> None:
    searcher = build(name, FINITE)
    found: list[Mapping[str, Any]] = []
    for _ in range(1000):
        point = searcher.suggest()
        if point is None:
            break
        if point not in found:
            found.append(point)
            searcher.tell(point, 0, None, False)
            searcher.tell(point, 27, float(len(found)), True)
    assert len(found) == FINITE.size() == 12


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"grid"}))
def test_another_seed_gives_other_points(name: str) -> None:
    assert suggested(played(build(name, EVERY_FORM, 1), 20)) != suggested(played(build(name, EVERY_FORM, 2), 20))


@EVERY
def test_nothing_that_may_be_told_is_too_much(name: str) -> None:
    searcher = build(name, FINITE)
    for number, failure in enumerate(["diverged", "infeasible", "out_of_memory", "failed"] * 4):
        searcher.tell({"adapter.r": number}, 0, failure, False)  # type: ignore[arg-type]
    outside: Point = {"adapter.r": 12, "adapter.target_modules": "all-linear", "training.batch_size": 64}
    for _ in range(2):
        searcher.tell(outside, 3, 1.5, False)
        searcher.tell(outside, 27, 1.2, True)
    point = searcher.suggest()
    assert point is not None
    searcher.tell(point, 3, 1.0, False)
    searcher.tell(point, 3, "diverged", False)
    assert FINITE.contains(searcher.suggest() or {})


@pytest.mark.parametrize("name", DEAF)
def test_a_searcher_that_does_not_learn_gives_the_same_points_whatever_it_is_told(name: str) -> None:
    deaf = build(name, FINITE)
    assert suggested(played(build(name, FINITE), 12)) == [deaf.suggest() for _ in range(12)]


def test_random_gives_the_points_that_sweeps_of_earlier_versions_had() -> None:
    space = SearchSpace.parse(
        {
            "adapter.r": {"choice": [8, 16, 32, 64]},
            "adapter.alpha_over_r": {"choice": [1, 2]},
            "adapter.target_modules": {"choice": ["attention-qv", "attention", "mlp", "all-linear"]},
            "training.learning_rate": {"loguniform": [2e-5, 2e-3]},
        }
    )
    searcher = build("random", space, seed=7)
    points = [list((searcher.suggest() or {}).values()) for _ in range(3)]
    assert points == [[8, 2, "mlp", 0.00021], [8, 1, "attention", 7.67e-05], [32, 1, "mlp", 6.59e-05]]
