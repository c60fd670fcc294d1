"""Events add up to a record, and what was said before is dropped."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_events import base, begun, ended, history, hosts, infeasible, record, reported, scored, started

from sweeps.record.events import Event, SweepEnded, SweepStarted, TrialEnded, TrialReported, TrialState
from sweeps.record.sweep_record import first_wins

# The record


def test_a_trial_is_what_its_events_say() -> None:
    whole = record(
        [
            begun(),
            started("a", 3, r=8),
            reported("a", 3, 2.0),
            reported("a", 9, 2.5, since=3, best=(3, 2.0)),
            ended("a", TrialState.STOPPED, "stopped by the scheduler"),
        ]
    )
    trial = whole.trials["a"]
    assert (trial.number, trial.params, trial.state) == (3, {"r": 8}, TrialState.STOPPED)
    assert (trial.step, trial.best_step, trial.value("eval_loss")) == (9, 3, 2.0)
    assert trial.evals == ((3, {"eval_loss": 2.0}), (9, {"eval_loss": 2.5}))
    assert trial.adapter == "trials/a/best-000003"  # the one of the best step, not of the last
    assert (trial.tokens, trial.seconds, trial.trainable_params) == (900, 4.5, 64)
    assert trial.reason == "stopped by the scheduler"


FINALIST: tuple[Event, ...] = (started("a"), reported("a", 3, 2.0), reported("a", 9, 2.5, since=3, best=(3, 2.0)))


def test_the_scores_of_a_finalist_are_those_of_its_best_step_and_the_first_ones_stay() -> None:
    late = scored("a", 9, exact_match=0.9)
    told: list[Event] = [begun(), *FINALIST, ended("a", TrialState.COMPLETED), late, scored("a", 3, exact_match=0.5)]
    trial = record(told).trials["a"]
    assert trial.best_metrics == {"eval_loss": 2.0, "exact_match": 0.5}
    assert (trial.state, trial.evals[0][1]) == (TrialState.COMPLETED, {"eval_loss": 2.0})
    again = scored("a", 3, exact_match=0.6)
    assert [event for event, _ in first_wins([*told, again])] == [event for event in told if event is not late]


def test_a_finalist_that_goes_on_is_scored_anew() -> None:
    """With its score no later report could be its best."""
    stopped = ended("a", TrialState.STOPPED, "budget", by_person_or_budget=True, may_go_on=True)
    over = [begun(), hosts(), *FINALIST, stopped, scored("a", 3, exact_match=0.5)]
    assert record(over).trials["a"].value("exact_match") == 0.5
    going_on = record([*over, begun(100.0), hosts(101.0)]).trials["a"]
    assert (going_on.state, going_on.best_step, going_on.best_metrics) == (TrialState.PAUSED, 3, {"eval_loss": 2.0})
    again = record([*over, begun(100.0), hosts(101.0), scored("a", 3, exact_match=0.5)]).trials["a"]
    assert again.value("exact_match") == 0.5


def test_a_trial_without_a_report_has_no_best() -> None:
    trial = record([started("a"), ended("a", TrialState.DIVERGED)]).trials["a"]
    assert (trial.step, trial.best_step, trial.adapter) == (0, None, None)
    assert math.isnan(trial.value("eval_loss"))


def test_a_point_that_never_held_a_slot_is_an_infeasible_trial() -> None:
    trial = record([begun(), infeasible("a", 4, "adapter.r: 300 exceeds 256", r=300)]).trials["a"]
    assert (trial.number, trial.params, trial.state) == (4, {"r": 300}, TrialState.INFEASIBLE)
    assert (trial.reason, trial.step) == ("adapter.r: 300 exceeds 256", 0)


def test_a_point_is_infeasible_once() -> None:
    events: list[Event] = [infeasible("a"), infeasible("a", reason="again"), started("b"), infeasible("b")]
    assert [event for event, _ in first_wins(events)] == [events[0], events[2]]


def test_a_trial_that_goes_on_keeps_what_it_had() -> None:
    whole = record(
        [started("a", 2), reported("a", 3, 2.0), ended("a", TrialState.PAUSED, "interrupted"), started("a", 7)]
    )
    trial = whole.trials["a"]
    assert (trial.state, trial.reason, trial.number, trial.step) == (TrialState.RUNNING, "", 2, 3)


def test_counts_name_the_states_that_occur_in_a_fixed_order() -> None:
    whole = record(
        [
            started("a"),
            started("b", 1),
            started("c", 2),
            ended("a", TrialState.FAILED),
            ended("b", TrialState.COMPLETED),
            ended("c", TrialState.COMPLETED),
        ]
    )
    assert list(whole.counts().items()) == [("COMPLETED", 2), ("FAILED", 1)]


def test_no_event_keeps_a_password_of_a_failure() -> None:
    message = "ConnectionError: http://user:secret@proxy:3128 refused"
    failed = TrialEnded(time=1.0, trial_key="a", state=TrialState.FAILED, reason=message)
    left = SweepEnded(time=2.0, reason="failed", message=message)
    assert failed.reason == left.message == "ConnectionError: http://user:***@proxy:3128 refused"


def test_a_record_is_never_changed_in_place() -> None:
    before = record([started("a")])
    after = before.apply(reported("a", 3, 1.0))
    assert (before.trials["a"].step, after.trials["a"].step) == (0, 3)


def test_a_sweep_that_goes_on_keeps_its_start_and_is_open_again() -> None:
    over = record([begun(5.0), SweepEnded(time=9.0, reason="interrupted")])
    assert over.ended is not None and over.ended.reason == "interrupted"
    again = over.apply(begun(100.0))
    assert (again.started, again.resumed, again.ended) == (5.0, 100.0, None)


def test_time_between_drivers_is_not_spent() -> None:
    whole = record([begun(0.0), SweepEnded(time=40.0, reason="interrupted"), begun(1000.0), started("a", time=1060.0)])
    assert whole.spent_seconds == 40.0
    assert whole.apply(begun(5000.0)).spent_seconds == 100.0  # a driver that was killed: until its last event


def test_the_first_evaluation_of_the_base_stays() -> None:
    found = [event for event, _ in first_wins([begun(), base(4.5), begun(9.0), base(4.4)])]
    assert record(found).base == base(4.5)
    assert [event.type for event in found] == ["sweep_started", "base_evaluated", "sweep_started"]


def test_a_sweep_goes_on_with_the_configuration_that_it_began_with() -> None:
    first = SweepStarted(sweep_id="toy-1", time=0.0, config='{"seed": 1}')
    assert record([first, SweepStarted(sweep_id="toy-1", time=1.0, config='{"seed": 2}')]).config == '{"seed": 1}'


@pytest.mark.parametrize(
    ("reason", "state", "finished"),
    [
        ("finished", TrialState.COMPLETED, True),
        ("budget", TrialState.STOPPED, True),
        ("interrupted", TrialState.COMPLETED, False),
        ("failed", TrialState.FAILED, False),
        ("finished", TrialState.PAUSED, False),
    ],
)
def test_a_sweep_is_finished_when_it_ended_by_itself_with_every_trial_over(
    reason: str, state: TrialState, finished: bool
) -> None:
    end = SweepEnded.model_validate({"time": 9.0, "reason": reason})
    assert record([begun(), started("a"), ended("a", state), end]).is_finished is finished


# First wins


def test_first_wins_goes_on_from_a_record() -> None:
    before = record([started("a"), reported("a", 3, 1.0)])
    assert list(first_wins([reported("a", 3, 0.5)], before)) == []
    ((event, after),) = first_wins([reported("a", 5, 0.5)], before)
    assert isinstance(event, TrialReported)
    assert [step.step for step in event.report.history] == [4, 5]
    assert after.trials["a"].step == 5


def test_a_trial_that_may_go_on_keeps_its_steps_and_reports_where_it_was_not_evaluated() -> None:
    """A budget of time ended it after its last step before a report point, which it stood at."""
    over = ended("a", TrialState.STOPPED, "rank 5 of 8", history=history(4, 9), may_go_on=True)
    before: list[Event] = [begun(), started("a"), reported("a", 3, 1.0), over, SweepEnded(time=99.0, reason="budget")]
    assert record(before).is_finished
    known = record([*before, begun(100.0), hosts(101.0)])
    assert (known.trials["a"].state, known.trials["a"].reason) == (TrialState.PAUSED, "")
    assert (known.trials["a"].step, known.trials["a"].reported_step) == (9, 3)
    ((event, after),) = first_wins([reported("a", 9, 0.5, since=3)], known)
    assert isinstance(event, TrialReported)
    assert event.report.history == ()
    assert after.trials["a"].evals[-1] == (9, {"eval_loss": 0.5})


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 12)), max_size=12))
def test_no_step_of_a_trial_is_passed_on_twice(reports: list[tuple[str, int]]) -> None:
    events: list[Event] = [started("a"), started("b", 1), *(reported(key, step, 1.0) for key, step in reports)]
    told: dict[str, list[int]] = {"a": [], "b": []}
    for event, _ in first_wins(events):
        if isinstance(event, TrialReported):
            told[event.trial_key] += [step.step for step in event.report.history]
    for key, steps in told.items():
        assert steps == list(range(1, max((step for other, step in reports if other == key), default=0) + 1))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 12)), max_size=12), st.randoms())
def test_telling_everything_again_changes_nothing(reports: list[tuple[str, int]], rng: random.Random) -> None:
    """What a driver that goes on, or a log that is read twice, does."""
    opening = [started("a"), started("b", 1)]
    first = [reported(key, step, 1.0) for key, step in reports]
    again = rng.sample(first, len(first))
    *_, (_, once) = first_wins([*opening, *first])
    *_, (_, twice) = first_wins([*opening, *first, *again])
    assert once.trials == twice.trials
