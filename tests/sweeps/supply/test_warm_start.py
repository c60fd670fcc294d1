"""What an earlier sweep says to a new one: its best points, and its results where they compare."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweep_files import RATES, toy

import search_spaces
from search_spaces.space import SearchSpace
from sweeps.config import points, resource
from sweeps.config.model import SweepConfig
from sweeps.record.events import EarlierPoint, EarlierTrials
from sweeps.record.sweep_record import SweepRecord
from sweeps.searchers._learner import Learner
from sweeps.supply import warm_start
from sweeps.supply.trial_source import TrialSource

SPACE: dict[str, Any] = {
    "adapter.r": {"choice": [8, 16, 32], "prior": 16},
    "adapter.target_modules": {"choice": ["mlp", ["q_proj", "v_proj"]]},
    **RATES,
}


def config(**sections: Any) -> SweepConfig:
    data = {"train": "rows.jsonl", "prompt": "{q}", "completion": "{a}"}
    raw = {"name": "x", "model": {"source": "meta-llama/Llama-3.1-8B"}, "data": data, **sections}
    return SweepConfig.model_validate(raw)


def point(rate: float, r: int = 8) -> dict[str, Any]:
    return {"adapter.r": r, "adapter.target_modules": "mlp", "training.learning_rate": rate}


def earlier(*trials: tuple[dict[str, Any], float], is_same_task: bool = False) -> EarlierTrials:
    told = tuple(EarlierPoint(point=where, loss=loss) for where, loss in trials)
    return EarlierTrials(time=1.0, sweep_id="before", trials=told, is_same_task=is_same_task)


@given(st.sampled_from(["lora_core", "lora_wide"]), st.integers(0, 2**32))
def test_the_params_of_a_trial_say_its_point(name: str, seed: int) -> None:
    """Params are text in MLflow."""
    space = search_spaces.load(name)
    drawn = space.sample(Random(seed))
    params = logged(config(), drawn)
    assert warm_start.point(space, params) == drawn
    assert warm_start.has_our_settings(config(), drawn, params)


def test_a_list_of_modules_is_found_again_and_a_trial_without_a_value_is_left_out() -> None:
    space, params = SearchSpace.parse(SPACE), {"r": "16", "target_modules": "q_proj,v_proj", "learning_rate": "0.0003"}
    found: Any = warm_start.point(space, params)
    assert found["adapter.target_modules"] == ("q_proj", "v_proj")
    for wrong in ({"target_modules": "k_proj"}, {"learning_rate": "high"}):
        assert warm_start.point(space, params | wrong) is None


def test_a_trial_from_before_a_setting_had_what_every_trial_had_then() -> None:
    space = SearchSpace.parse({"training.lora_plus_ratio": {"choice": [1, 16]}, **RATES})
    params = logged(config(), {"training.learning_rate": 3e-4})
    old = {name: value for name, value in params.items() if name not in points.LATER}
    assert warm_start.has_our_settings(config(), {"training.learning_rate": 3e-4}, old)
    assert not warm_start.has_our_settings(config(adapter={"init": "gaussian"}), {"training.learning_rate": 3e-4}, old)
    assert warm_start.point(space, old) == {"training.learning_rate": 3e-4, "training.lora_plus_ratio": 1}


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"model": {"source": "llama-tiny"}}, None),
        ({"model": {"source": "/models/Llama-3.2-1B/"}}, None),
        ({"model": {"source": "Qwen/Qwen3-8B"}}, "its base model family is llama, and this sweep's is qwen"),
        ({"data": {"train": "other.jsonl", "text": "{t}"}}, "its form of the rows is completion, and this sweep's is"),
        ({"data": {"train": "other.jsonl", "prompt": "{c}", "completion": "{b}"}}, None),
        ({"objective": {"metric": "eval_loss", "mode": "max"}}, "its objective is lower eval_loss, and this sweep's"),
        ({"trainable": "toy"}, "its trainable is qlora, and this sweep's is toy"),
    ],
)
def test_only_a_sweep_of_the_same_family_and_form_says_something(sections: dict[str, Any], why: str | None) -> None:
    told = warm_start.refusal(config(**sections), config())
    assert (told is None) if why is None else str(told).startswith(why)


MOVED = {"train": "moved.jsonl", "prompt": "{q}", "completion": "{a}"}
PRINTS = {"model": "1", "data.train": "2"}


@pytest.mark.parametrize(
    ("sections", "prints", "is_same"),
    [
        ({}, PRINTS, True),
        ({}, PRINTS | {"data.train": "3"}, False),
        ({"budget": {"steps_per_trial": 9}}, PRINTS, False),
        ({"quantization": {"scheme": "none"}}, PRINTS, False),
        ({"quantization": {"residency": "4bit"}}, PRINTS, True),
        ({"data": {**MOVED, "max_length": 64}}, PRINTS, False),
        ({"data": {**MOVED, "max_length": 512}}, PRINTS, True),
    ],
)
def test_losses_compare_where_base_rows_and_steps_are_the_same(sections: Any, prints: Any, is_same: bool) -> None:
    assert warm_start.is_same_task(config(**sections), config(), prints, PRINTS) is is_same
    assert not warm_start.is_same_task(config(), config(), {}, {})


def test_the_best_points_of_the_earlier_sweep_come_after_the_default_and_the_files_own_points() -> None:
    given_first, space = toy(SPACE, searcher={"kind": "random", "points": [point(5e-4, 32)]})
    outside = point(0.5)
    told = earlier((point(1e-3), 3.0), (point(2e-3), 1.0), (outside, 0.5), (point(3e-3), 2.0), (point(4e-3), 4.0))
    record = SweepRecord(earlier=told)
    source: Any = TrialSource(given_first, space, record)
    rates = [source.next(record).spec.training.learning_rate for _ in range(5)]
    assert rates == [given_first.training.learning_rate, 5e-4, 2e-3, 3e-3, 1e-3]


def test_a_point_that_was_trained_with_several_seeds_is_tried_once() -> None:
    space = SearchSpace.parse(SPACE)
    told = earlier((point(1e-3), 1.2), (point(1e-3), 1.0), (point(1e-3), 1.1), (point(2e-3), 2.0), (point(3e-3), 3.0))
    assert warm_start.best_points(told, space) == [point(1e-3), point(2e-3), point(3e-3)]


def test_a_ratio_is_known_again_from_alpha_and_r() -> None:
    ranks, ratios = [3, 7, 11, 24], [0.1, 0.3, 0.7, 2.0]
    space = SearchSpace.parse({"adapter.r": {"choice": ranks}, "adapter.alpha_over_r": {"choice": ratios}})
    for r, ratio in product(ranks, ratios):
        found = warm_start.point(space, {"r": str(r), "lora_alpha": str(ratio * r)})
        assert found == {"adapter.r": r, "adapter.alpha_over_r": ratio}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What a searcher that learns is told."""
    heard: list[tuple[object, ...]] = []
    monkeypatch.setattr(Learner, "tell", lambda self, *words: heard.append(words))
    return heard


@pytest.mark.parametrize("is_same", [False, True])
def test_results_that_compare_are_told_to_the_searcher_and_others_are_not(told: list[Any], is_same: bool) -> None:
    learning, space = toy(SPACE, searcher={"kind": "tpe"}, budget={"steps_per_trial": 9})
    known = earlier((point(1e-3), 3.0), (point(2e-3), 1.0), is_same_task=is_same)
    of_others = EarlierPoint(point=point(3e-3), loss=0.5, is_own=False)
    known = known.model_copy(update={"trials": (*known.trials, of_others)})
    TrialSource(learning, space, SweepRecord(earlier=known))
    assert told == ([(point(1e-3), 9, 3.0, True), (point(2e-3), 9, 1.0, True)] if is_same else [])


@pytest.mark.parametrize(("sections", "reached"), [({}, 3), ({"budget": {"examples_per_trial": 36}}, 12)])
def test_a_trial_that_was_stopped_is_told_with_what_it_was_trained_on(told: Any, sections: Any, reached: int) -> None:
    learning, space = toy(SPACE, searcher={"kind": "tpe"}, **{"budget": {"steps_per_trial": 9}, **sections})
    stopped = EarlierPoint(point=point(1e-3), loss=2.0, last=3.0, step=3)
    known = EarlierTrials(time=1.0, sweep_id="before", trials=(stopped,), is_same_task=True)
    TrialSource(learning, space, SweepRecord(earlier=known))
    assert told == [(point(1e-3), reached, 3.0, False)]


@pytest.mark.parametrize(
    ("rank", "change", "is_own"),
    [
        (4, {}, True),
        (64, {}, False),
        (4, {"seed": 7}, True),
        (4, {"training": {"schedule": "constant"}}, False),
        (4, {"training": {"gradient_checkpointing": True}}, True),
        (4, {"adapter": {"target_modules": "mlp"}}, False),
        (4, {"budget": {"steps_per_trial": 9}}, False),
        (4, {"data": MOVED}, True),
    ],
)
def test_a_loss_counts_only_of_a_trial_with_the_settings_that_the_new_sweep_gives_its_point(rank, change, is_own):
    """The earlier sweep searched the rank, which the new one fixes at 4."""
    new = config(adapter={"r": 4}, search_space=RATES)
    before = config(search_space={"adapter.r": {"choice": [4, 64]}, **RATES}, **change)
    drawn = {"adapter.r": rank, "training.learning_rate": 1e-3}
    params = logged(before, drawn)
    found = warm_start.point(SearchSpace.parse(RATES), params)
    assert found == {"training.learning_rate": 1e-3}
    assert warm_start.has_our_settings(new, found, params) is is_own
    assert not warm_start.has_our_settings(new, found, {"r": "4"}), "an earlier version says less"


def logged(of: SweepConfig, at: Mapping[str, Any]) -> dict[str, str]:
    """The params of a trial, as MLflow has them."""
    spec = resource.of(of).with_steps(points.apply(of.base, at, of.seed))
    return {name: str(value) for name, value in {**points.params(spec, at), **points.settings(spec)}.items()}
