"""An earlier sweep is read from MLflow for the one that learns from it."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_events import begun, ended, reported, started
from tracked_sweeps import PARAMS, SPEC, SWEEP, deliver, keep_adapter, over

from search_spaces.space import SearchSpace
from sweeps.config.model import SweepConfig
from sweeps.errors import ConfigError
from sweeps.record.events import Event, TrialState
from sweeps.tracking import earlier
from sweeps.tracking.lookup import TrackedSweep
from sweeps.tracking.sink import MlflowSink
from trainables.objective import Objective

SPACE = SearchSpace.parse(
    {"adapter.r": {"choice": [8, 16]}, "training.learning_rate": {"loguniform": [1e-5, 1e-2]}},
)


def trial(
    number: int, rate: float, loss: float, state: TrialState = TrialState.COMPLETED, repeats: str | None = None
) -> list[Event]:
    key = f"key{number}"
    params: dict[str, Any] = {**PARAMS, "learning_rate": rate}
    begins = started(key, number, **params).model_copy(update={"spec": SPEC.model_dump_json(), "repeats": repeats})
    return [begins, reported(key, 3, loss), ended(key, state)]


def learning(config: SweepConfig, name: str, **changed: Any) -> SweepConfig:
    """The configuration of a sweep that learns from another."""
    kind: Any = type(config.searcher)
    searcher = kind.model_validate({"kind": "random", "warm_start": name})
    return config.model_copy(update={"searcher": searcher, "name": "new", **changed})


def found(config: SweepConfig, own_id: str | None = None) -> TrackedSweep:
    sweep = earlier.look_up(config, own_id)
    assert sweep is not None
    return sweep


@pytest.fixture
def tracked(sink: MlflowSink, folder: Any, config: SweepConfig) -> SweepConfig:
    """The configuration of a sweep that learns from one: four trials, of which one failed, and a repeat of the best."""
    story = [*trial(0, 2e-4, 0.9), *trial(1, 1e-3, 0.7), *trial(2, 3e-3, 0.8, TrialState.STOPPED)]
    story += trial(3, 4e-3, 0.6, TrialState.FAILED)
    story += trial(4, 1e-3, 0.5, repeats="key1")
    for number in range(5):
        keep_adapter(folder, f"key{number}", 3)
    deliver(sink, [begun(), *story, over()])
    return learning(config, "demo")


def test_the_trials_that_were_ranked_are_known_by_their_points_and_where_they_were_stopped(
    tracked: SweepConfig,
) -> None:
    like_the_trials = tracked.model_copy(update={"model": None, "data": None})
    told = earlier.trials(found(tracked), like_the_trials, SPACE, {"toy": "1"}, 5.0)
    assert (told.time, told.sweep_id, told.is_same_task) == (5.0, SWEEP, False)
    known = [(trial.point["training.learning_rate"], trial.loss, trial.step) for trial in told.trials]
    assert known == [(2e-4, 0.9, None), (1e-3, 0.7, None), (3e-3, 0.8, 3)]
    assert {(trial.point["adapter.r"], trial.is_own) for trial in told.trials} == {(8, True)}
    # Where the loss stops trials and a score chooses, only whole trials are known.
    chooses = Objective(metric="eval_loss", mode="max")  # of the same name, so that the earlier trials have it
    scheduler = tracked.scheduler.model_copy(update={"metric": "eval_loss"})
    by_score = like_the_trials.model_copy(update={"objective": chooses, "scheduler": scheduler})
    assert [trial.step for trial in earlier.trials(found(tracked), by_score, SPACE, {}, 5.0).trials] == [None, None]


def test_a_trial_whose_loss_rose_again_is_known_by_its_best_and_its_last(
    sink: MlflowSink, folder: Any, tracked: SweepConfig
) -> None:
    begins, first, end = trial(5, 5e-3, 0.4)
    keep_adapter(folder, "key5", 3)
    deliver(sink, [begun(), begins, first, reported("key5", 9, 0.75, since=3, best=(3, 0.4)), end])
    *_, told = earlier.trials(found(tracked), tracked, SPACE, {}, 5.0).trials
    assert (told.loss, told.last) == (0.4, 0.75)


def test_a_name_means_the_newest_other_sweep_that_has_a_result(tracked: SweepConfig, folder: Any) -> None:
    """The first try of a sweep may bear the name that it learns from, and end before it had a result.

    A driver that was killed before it wrote down what it learns asks again when MLflow has its sweep too.
    """
    own = "demo-20260102-000000-bcde"
    events: list[Event] = [begun().model_copy(update={"time": 4e9, "sweep_id": own})]
    again = MlflowSink(tracked.model_copy(update={"name": "demo"}), own, folder)
    deliver(again, events)
    assert found(tracked).sweep_id == SWEEP
    with pytest.raises(ConfigError, match=f"no trial of it has a result in sqlite.* [(]looked at {own}[)]; name an"):
        found(learning(tracked, own))
    deliver(again, [*events, *trial(0, 2e-4, 0.1)])
    assert (found(tracked).sweep_id, found(tracked, own).sweep_id) == (own, SWEEP)
    with pytest.raises(ConfigError, match="no sweep of this id or name"):
        found(learning(tracked, own), own)


def test_a_sweep_that_says_nothing_is_a_mistake(tracked: SweepConfig) -> None:
    for config, why in (
        (learning(tracked, "other"), "searcher.warm_start: other: no sweep of this id or name in sqlite:///"),
        (
            learning(tracked, "demo", trainable="qlora"),
            "searcher.warm_start: demo: its trainable is toy, and this sweep's is qlora",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            earlier.look_up(config)
        assert caught.value.problems[0].startswith(why)
        assert "--tracking-uri" not in caught.value.problems[0]
