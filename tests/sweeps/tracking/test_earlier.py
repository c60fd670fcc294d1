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


@pytest.fixture
def tracked(sink: MlflowSink, folder: Any, config: SweepConfig) -> SweepConfig:
    """The configuration of a sweep that learns from one: four trials, of which one failed, and a repeat of the best."""
    story = [*trial(0, 2e-4, 0.9), *trial(1, 1e-3, 0.7), *trial(2, 3e-3, 0.8, TrialState.STOPPED)]
    story += trial(3, 4e-3, 0.6, TrialState.FAILED)
    story += trial(4, 1e-3, 0.5, repeats="key1")
    for key in ("key0", "key1", "key2", "key3", "key4"):
        keep_adapter(folder, key, 3)
    deliver(sink, [begun(), *story, over()])
    kind: Any = type(config.searcher)
    searcher = kind.model_validate({"kind": "random", "warm_start": "demo"})
    return config.model_copy(update={"searcher": searcher, "name": "new"})


def test_the_trials_that_were_ranked_are_known_by_their_points_and_where_they_were_stopped(
    tracked: SweepConfig,
) -> None:
    found = earlier.look_up(tracked)
    assert found is not None
    like_the_trials = tracked.model_copy(update={"model": None, "data": None})
    told = earlier.trials(found, like_the_trials, SPACE, {"toy": "1"}, 5.0)
    assert (told.time, told.sweep_id, told.is_same_task) == (5.0, SWEEP, False)
    known = [(trial.point["training.learning_rate"], trial.loss, trial.step) for trial in told.trials]
    assert known == [(2e-4, 0.9, None), (1e-3, 0.7, None), (3e-3, 0.8, 3)]
    assert {trial.point["adapter.r"] for trial in told.trials} == {8}
    assert all(trial.is_own for trial in told.trials), told.trials


def test_where_the_loss_stops_trials_and_a_score_chooses_only_whole_trials_are_known(tracked: SweepConfig) -> None:
    found = earlier.look_up(tracked)
    assert found is not None
    chooses = Objective(metric="eval_loss", mode="max")  # of the same name, so that the earlier trials have it
    scheduler = tracked.scheduler.model_copy(update={"metric": "eval_loss"})
    config = tracked.model_copy(update={"objective": chooses, "scheduler": scheduler, "model": None, "data": None})
    assert [trial.step for trial in earlier.trials(found, config, SPACE, {}, 5.0).trials] == [None, None]


def test_a_trial_whose_loss_rose_again_is_known_by_its_best_and_its_last(
    sink: MlflowSink, folder: Any, tracked: SweepConfig
) -> None:
    begins, first, end = trial(5, 5e-3, 0.4)
    keep_adapter(folder, "key5", 3)
    deliver(sink, [begun(), begins, first, reported("key5", 9, 0.75, since=3, best=(3, 0.4)), end])
    found = earlier.look_up(tracked)
    assert found is not None
    *_, told = earlier.trials(found, tracked, SPACE, {}, 5.0).trials
    assert (told.loss, told.last) == (0.4, 0.75)


def test_a_sweep_that_bears_the_name_it_learns_from_does_not_learn_from_itself(
    tracked: SweepConfig, sink: MlflowSink, folder: Any
) -> None:
    """A driver that was killed before it wrote down what it learns asks again when MLflow has its sweep too."""
    own = "demo-20260102-000000-bcde"
    again = MlflowSink(tracked.model_copy(update={"name": "demo"}), own, folder, print)
    deliver(again, [begun().model_copy(update={"time": 4e9, "sweep_id": own}), *trial(0, 2e-4, 0.1)])
    newest, other = earlier.look_up(tracked), earlier.look_up(tracked, own)
    assert newest is not None and other is not None
    assert (newest.sweep_id, other.sweep_id) == (own, SWEEP)
    with pytest.raises(ConfigError, match="no sweep of this id or name"):
        searcher = tracked.searcher.model_copy(update={"warm_start": own})
        earlier.look_up(tracked.model_copy(update={"searcher": searcher}), own)


def test_a_name_means_the_newest_sweep_that_has_a_result(tracked: SweepConfig, sink: MlflowSink, folder: Any) -> None:
    """The first try of a sweep may bear the name that it learns from, and end before it had a result."""
    failed = "demo-20260102-000000-cdef"
    again = MlflowSink(tracked.model_copy(update={"name": "demo"}), failed, folder, print)
    deliver(again, [begun().model_copy(update={"time": 4e9, "sweep_id": failed})])
    found = earlier.look_up(tracked)
    assert found is not None and found.sweep_id == SWEEP
    searcher = tracked.searcher.model_copy(update={"warm_start": failed})
    with pytest.raises(ConfigError, match=f"no trial of it has a result in sqlite.* [(]looked at {failed}[)]; name an"):
        earlier.look_up(tracked.model_copy(update={"searcher": searcher}))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "other"}, "searcher.warm_start: other: no sweep of this id or name in sqlite:///"),
        ({"trainable": "qlora"}, "searcher.warm_start: demo: its trainable is toy, and this sweep's is qlora"),
    ],
)
def test_a_sweep_that_says_nothing_is_a_mistake(tracked: SweepConfig, change: dict[str, str], why: str) -> None:
    if "name" in change:
        searcher = tracked.searcher.model_copy(update={"warm_start": change["name"]})
        tracked = tracked.model_copy(update={"searcher": searcher})
    else:
        tracked = tracked.model_copy(update=change)
    with pytest.raises(ConfigError) as caught:
        earlier.look_up(tracked)
    assert caught.value.problems[0].startswith(why)
    assert "--tracking-uri" not in caught.value.problems[0]
