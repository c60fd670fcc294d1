"""Rule, journal and Ray Tune's searcher and scheduler together: Tune itself is played by the test, kills included."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeGuard
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from played_sweeps import Killed, driver, scored, story, sweep
from sweep_events import begun, hosts, reported, started

from sweeps.config.model import SweepConfig
from sweeps.record.events import Event, TrialEnded, TrialParked, TrialStarted, TrialState
from sweeps.record.folder import SweepFolder, read_events
from sweeps.record.journal import Journal
from sweeps.record.selection import rank
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.steering.answering import STOPPED_BY_REQUEST
from sweeps.steering.stop import StopState
from sweeps.tune.driver import Driver
from sweeps.tune.sweep_trials import STOPPED_BY_SCHEDULER, SweepTrials
from sweeps.tune.tune_callbacks import NO_ROOM
from trainables.specs import TrialSpec

VARIANTS: list[dict[str, Any]] = [{}, {"order": "paper"}, {"variant": "stop"}, {"kind": "median"}]


LEARNS = {"kind": "tpe"}
TWICE = {"kind": "random", "repeats": 2}
SWEEPS: dict[str, SweepConfig] = {
    **{"-".join(section.values()) or "promote": sweep(**section) for section in VARIANTS},
    # The rule goes by the loss where the score comes last, before and after the kill, and so does the searcher.
    "score last": scored(sweep(12, LEARNS), "last"),
    "score every": scored(sweep(12, LEARNS), "every"),
    "score best": scored(sweep(6, LEARNS), "best"),
    "tpe": sweep(14, LEARNS),
    "prior": sweep(14, {"kind": "prior"}),
    "repeats": sweep(5, TWICE),
    "repeats, stop": sweep(5, TWICE, variant="stop"),
}


@pytest.mark.parametrize("config", SWEEPS.values(), ids=SWEEPS)
def test_a_sweep_that_is_killed_after_any_event_goes_on_as_if_it_had_not_been(tmp_path, config):
    whole = tmp_path / "whole"
    for path in after_each_event(tmp_path, config):
        with driver(path, config) as again:
            again.run()
        assert ends(path) == ends(whole)
        assert story(path) == story(whole)


def after_each_event(place: Path, config: SweepConfig, slots: int = 1, *before: Event) -> list[Path]:
    """Runs a sweep in `place`/whole; copies of its folder after each event are what a driver killed then leaves."""
    left: list[Path] = []

    def copy(_event: Event, _record: SweepRecord) -> None:
        left.append(shutil.copytree(place / "whole", place / str(len(left))))

    with driver(place / "whole", config, slots) as whole:
        for event in before:
            whole.journal.add(event)
        whole.journal.listen(copy)
        whole.run()
    return left


def ends(path: Path) -> dict[str, tuple[TrialState, str, Mapping[str, float]]]:
    """How each trial ended, and with which metrics."""
    return {key: (trial.state, trial.reason, trial.best_metrics) for key, trial in trials(path).items()}


def trials(path: Path) -> Mapping[str, TrialRecord]:
    with closing(Journal(SweepFolder(path))) as journal:
        return journal.record.trials


def test_the_loss_stops_trials_where_the_score_comes_last(tmp_path: Path) -> None:
    with driver(tmp_path / "loss", sweep()) as by_loss, driver(tmp_path / "score", scored(sweep(), "last")) as last:
        by_loss.run()
        last.run()
    with driver(tmp_path / "every", scored(sweep(), "every")) as every:
        every.run()
    assert story(tmp_path / "score") == story(tmp_path / "loss") != story(tmp_path / "every")
    trials = last.journal.record.trials.values()
    whole = [trial for trial in trials if trial.state is TrialState.COMPLETED]
    assert {trial.trial_key for trial in trials if "exact_match" in trial.best_metrics} == {t.trial_key for t in whole}
    ranked = rank(trials, last.config.objectives[0])
    assert [trial.state for trial in ranked[: len(whole)]] == [TrialState.COMPLETED] * len(whole)
    assert ranked[0].value("exact_match") == max(trial.value("exact_match") for trial in whole)


def test_the_best_trials_are_trained_again_once_all_others_are_over(tmp_path: Path) -> None:
    with driver(tmp_path, sweep(9, {"kind": "random", "repeats": 2}), 2) as whole:
        whole.run()
        trials = {trial.trial_key: trial for trial in whole.journal.record.trials.values()}
    with driver(tmp_path / "without", sweep(), 2) as without:
        without.run()
        others = without.journal.record.trials
    again = [trial for trial in trials.values() if trial.repeats is not None]
    first = [trial for trial in trials.values() if trial.repeats is None]
    # Nothing is different for the others: the rule knows nothing of repeats.
    assert {trial.trial_key: trial.evals for trial in first} == {key: trial.evals for key, trial in others.items()}
    whole_ones = {trial.trial_key for trial in first if trial.state is TrialState.COMPLETED}
    assert sorted(trial.repeats or "" for trial in again) == sorted([*whole_ones] * 2)
    assert {(trial.state, trial.step) for trial in again} == {(TrialState.COMPLETED, 9)}
    assert [trial.number for trial in again] == list(range(9, 9 + len(again)))
    assert {trial.point["training.learning_rate"] for trial in again if trial.point is not None} == {
        trial.point["training.learning_rate"] for trial in first if trial.trial_key in whole_ones and trial.point
    }
    seeds = [TrialSpec.model_validate_json(trial.spec).seed for trial in trials.values()]
    assert len(set(seeds)) == len(trials)


def test_neither_the_default_nor_a_repeat_ends_a_sweep_that_has_no_room_for_its_snapshot(tmp_path: Path) -> None:
    """They are never parked."""
    with driver(tmp_path, sweep(9, {"kind": "random", "repeats": 1}), 2) as whole:
        whole.is_saved = lambda trial: trial.config["number"] > 0 and trial.config["repeats"] is None
        whole.run()
        assert [trial for trial in whole.journal.record.trials.values() if trial.repeats is not None]
        assert whole.stop.reason is None
    with driver(tmp_path / "others", sweep(9), 2) as others:
        others.is_saved = lambda trial: trial.config["number"] == 0
        others.run()
        assert (others.stop.reason, others.stop.message) == ("budget", NO_ROOM)
        assert any(trial.state is TrialState.PARKED and trial.evals for trial in others.journal.record.trials.values())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**9), trials=st.integers(6, 24), slots=st.integers(2, 8), factor=st.sampled_from([2, 3, 12])
)
def test_a_rule_that_is_told_the_log_stands_where_the_one_stood_that_ran_the_sweep(seed, trials, slots, factor):
    """Others report between the decision that a trial goes on and its process, and some never hold their slot."""
    rng = random.Random(seed)
    config = sweep(trials, reduction_factor=factor)
    with TemporaryDirectory() as folder:
        with driver(Path(folder), config, slots) as ran:
            ran.opens, ran.fails = (lambda: rng.random() < 0.4), (lambda: rng.random() < 0.1)
            ran.run()
        with driver(Path(folder), config, slots) as again:
            assert vars(again.trials.rule) == vars(ran.trials.rule)


@pytest.mark.parametrize("scheduler", VARIANTS, ids=lambda section: "-".join(section.values()) or "promote")
def test_a_sweep_that_its_budget_of_time_has_ended_goes_on_as_if_it_had_not_been(tmp_path, scheduler):
    config = sweep(9, {"kind": "tpe", "repeats": 1}, **scheduler)
    whole = tmp_path / "whole"
    for path in after_each_event(tmp_path, config, 1, begun())[::4]:
        ended = end(path, config, "budget.wall_clock is used up")
        assert ended.is_finished
        assert {trial.state for trial in ended.trials.values()} <= {TrialState.COMPLETED, TrialState.STOPPED}
        with driver(path, config) as second:
            second.journal.add(begun(9.0))
            second.journal.add(hosts(9.0))
            second.run()
        assert [(key, trial.state) for key, trial in trials(path).items()] == [
            (key, trial.state) for key, trial in trials(whole).items()
        ]
        assert story(path) == story(whole)


@pytest.fixture
def killed(tmp_path: Path) -> SweepConfig:
    """A sweep whose driver was killed while trials were parked and others trained."""
    config = sweep(variant="promote")
    with driver(tmp_path, config, 2) as first, pytest.raises(Killed):
        first.journal.add(begun())
        first.run(17)
    return config


@pytest.mark.parametrize("can_be_raised", [True, False])
def test_snapshots_stay_where_the_budget_that_ended_the_sweep_can_be_raised(tmp_path, killed, can_be_raised):
    folder = SweepFolder(tmp_path)
    left = [key for key, trial in trials(tmp_path).items() if not trial.state.is_final]
    for key in left:
        folder.keep(key, "snapshot", 1, {"snapshot.bin": b"1"})
    assert end(tmp_path, killed, "used up", can_be_raised=can_be_raised).is_finished
    assert {bool(folder.all(key, "snapshot")) for key in left} == {can_be_raised}


@pytest.mark.parametrize("why", ["no host can run", "budget.wall_clock is used up"])
def test_a_driver_that_found_no_host_leaves_the_result_of_an_ended_sweep_as_it_is(tmp_path, killed, why):
    before = end(tmp_path, killed, "budget.wall_clock is used up").trials
    assert any(trial.may_go_on for trial in before.values())
    with closing(Journal(SweepFolder(tmp_path))) as journal:
        journal.add(begun(9.0))
    after = end(tmp_path, killed, *((why,) if "budget" in why else ("", why)))
    assert after.trials == before
    assert after.is_finished is ("budget" in why)
    with driver(tmp_path, killed) as second:
        second.journal.add(begun(99.0))
        second.journal.add(hosts(99.0))
        second.run()
        assert second.journal.record.counts()["COMPLETED"] > 0
        assert not any(trial.may_go_on for trial in second.journal.record.trials.values())


def end(
    path: Path, config: SweepConfig, budget: str = "", failed: str | None = None, can_be_raised: bool = True
) -> SweepRecord:
    """A used-up budget, or a failure, ends a sweep whose driver was killed; answers its record."""
    stop, journal = StopState(), Journal(SweepFolder(path))
    if budget:
        stop.ask("budget", budget, can_be_raised)
    Driver(SweepTrials(config, journal, SweepFolder(path), stop, time.time), Mock()).end(failed)
    journal.close()
    return journal.record


@pytest.mark.parametrize("order", ["breadth", "paper"])
def test_trials_that_were_interrupted_come_before_all_others(tmp_path: Path, order: str) -> None:
    config = sweep(order=order)
    for path in after_each_event(tmp_path, config, 3)[3:29]:
        with driver(path, config, 3) as second:
            second.trials.settle()
            left = second.trials.interrupted()
            before = len(story(path))
            second.run()
        assert {key for key, _ in story(path)[before : before + len(left)]} == left


def test_a_parked_trial_gives_its_slot_back_and_begins_again_when_it_is_resumed(tmp_path: Path) -> None:
    with driver(tmp_path, sweep()) as whole:
        whole.run()
        trials = whole.journal.record.trials.values()
        assert {trial.state for trial in trials} == {TrialState.COMPLETED, TrialState.PARKED}
    events = [event for event, _ in read_events(tmp_path / "events.jsonl")]
    parked = [event.trial_key for event in events if isinstance(event, TrialParked)]
    resumed = [event.trial_key for event in events if isinstance(event, TrialStarted)]
    assert set(parked) <= set(whole.released)
    assert len(resumed) > len(set(resumed)) == 9
    # A report ends the trial or parks it, but for the two on the way of the default configuration.
    assert len(parked) == len(story(tmp_path)) - sum(trial.state is TrialState.COMPLETED for trial in trials) - 2


def test_a_sweep_that_has_lost_its_last_host_hands_out_one_trial_that_waits_for_the_next(tmp_path: Path) -> None:
    with driver(tmp_path, sweep(3), slots=0) as played:
        queue = played.queue()
        assert isinstance(queue.suggest("one"), dict)
        assert queue.suggest("two") is None


def test_an_infeasible_point_is_replaced_and_ranked_nowhere(tmp_path: Path) -> None:
    with driver(tmp_path, sweep(searcher={"kind": "random", "start_with_default": False})) as whole:
        whole.infeasible = {2, 5}
        whole.run()
        states = [trial.state for trial in whole.journal.record.trials.values()]
        assert states.count(TrialState.INFEASIBLE) == 2
        assert len(states) == 11
        assert [step for _, step in story(tmp_path)].count(1) == 9
        assert [step for _, step in story(tmp_path)].count(3) == 3


def test_a_budget_that_is_used_up_while_hosts_start_ends_what_was_parked_at_its_rung(tmp_path, killed):
    paused = {"time": 1.0, "state": TrialState.PAUSED, "reason": "", "by_person_or_budget": True}
    with driver(tmp_path, killed) as second:
        second.trials.settle()
        for key, trial in trials(tmp_path).items():
            if trial.state is TrialState.PARKED:  # as the end of an interrupted sweep writes it
                second.journal.add(TrialEnded.model_validate({"trial_key": key, **paused}))
    ended = end(tmp_path, killed, "budget.wall_clock is used up")
    assert ended.is_finished
    assert {trial.number: trial.reason for trial in ended.trials.values()} == {
        0: "",
        **{
            number: f"{STOPPED_BY_SCHEDULER}: rank {place} of 5 at step 1"
            for number, place in ((1, 5), (2, 2), (3, 4), (4, 3))
        },
        5: "budget.wall_clock is used up",
    }


def test_a_budget_that_ends_a_sweep_ends_the_parked_trials_that_were_to_go_on(tmp_path: Path) -> None:
    with driver(tmp_path, sweep(searcher={"kind": "random", "start_with_default": False})) as played:
        for number, key in enumerate("abcd"):
            played.journal.add(started(key, number))
            played.journal.add(reported(key, 1, 1.0 + number))
            played.journal.add(TrialParked(time=1.0, trial_key=key, step=1))
        for key in "abcd":
            played.trials.end_parked(played.journal.record.trials[key], "budget.wall_clock is used up")
        ended = list(played.journal.record.trials.values())
    assert [trial.stopped_by_scheduler for trial in ended] == [False, True, True, True]
    assert [trial.reason for trial in ended[:2]] == [
        "budget.wall_clock is used up, before it went on: rank 1 of 4 at step 1",
        f"{STOPPED_BY_SCHEDULER}: rank 2 of 4 at step 1",
    ]


def test_a_trial_that_somebody_stops_is_stopped_although_it_is_parked(tmp_path: Path) -> None:
    with driver(tmp_path, sweep()) as first, pytest.raises(Killed):
        first.run(14)
    with driver(tmp_path, sweep()) as second:
        record = second.journal.record
        key = next(key for key, trial in record.trials.items() if trial.state is TrialState.PARKED)
        assert second.trials.stop_parked(key)
        assert not second.trials.stop_parked(key)
        second.run()
        assert second.journal.record.trials[key].reason == STOPPED_BY_REQUEST
    assert [step for reporter, step in story(tmp_path) if reporter == key] == [1]


def test_a_trial_that_reports_after_somebody_stopped_it_is_not_parked(tmp_path: Path) -> None:
    with driver(tmp_path, sweep(searcher={"kind": "random", "start_with_default": False})) as whole:
        whole.journal.listen(lambda event, _: whole.trials.to_stop.add(event.trial_key) if is_third(event) else None)
        whole.run()
        stopped = [trial for trial in whole.journal.record.trials.values() if trial.state is TrialState.STOPPED]
        assert [(trial.number, trial.reason) for trial in stopped] == [(2, STOPPED_BY_REQUEST)]


def is_third(event: Event) -> TypeGuard[TrialStarted]:
    return isinstance(event, TrialStarted) and event.number == 2
