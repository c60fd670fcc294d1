"""Events add up to a record, and what was said before is dropped."""

from __future__ import annotations

import math
import random
from collections import UserDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_events import base, begun, ended, history, hosts, infeasible, record, reported, scored, started

from sweeps.record.events import DataPrepared, Event, SweepEnded, SweepStarted, TrialEnded, TrialReported, TrialState
from sweeps.record.sweep_record import MOST_ABOVE, Layered, SweepRecord, first_wins
from trainables.objective import LOWEST_LOSS

# States


@pytest.mark.parametrize(
    ("state", "final", "ranked", "counts"),
    [
        ("PENDING", False, False, True),
        ("RUNNING", False, False, True),
        ("PARKED", False, False, True),
        ("PAUSED", False, False, True),
        ("STOPPED", True, True, True),
        ("COMPLETED", True, True, True),
        ("DIVERGED", True, False, True),
        ("INFEASIBLE", True, False, False),
        ("OUT_OF_MEMORY", True, False, True),
        ("FAILED", True, False, True),
    ],
)
def test_what_a_state_means(state: str, final: bool, ranked: bool, counts: bool) -> None:
    found = TrialState(state)
    assert (found.is_final, found.is_ranked, found.counts_as_trial) == (final, ranked, counts)


def test_every_state_is_in_the_table_above() -> None:
    assert len(TrialState) == 10


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


def test_the_highest_memory_of_all_reports_is_kept() -> None:
    second = reported("a", 9, 1.0)
    low = second.model_copy(update={"report": second.report.model_copy(update={"peak_memory_bytes": 1})})
    assert record([started("a"), reported("a", 3, 2.0), low]).trials["a"].peak_memory_bytes == 1003


def test_a_point_that_never_held_a_slot_is_an_infeasible_trial() -> None:
    trial = record([begun(), infeasible("a", 4, "adapter.r: 300 exceeds 256", r=300)]).trials["a"]
    assert (trial.number, trial.params, trial.state) == (4, {"r": 300}, TrialState.INFEASIBLE)
    assert (trial.reason, trial.step) == ("adapter.r: 300 exceeds 256", 0)


def test_a_point_is_infeasible_once() -> None:
    events: list[Event] = [infeasible("a"), infeasible("a", reason="again"), started("b"), infeasible("b")]
    assert [event for event, _ in first_wins(events)] == [events[0], events[2]]


def test_an_infeasible_trial_of_an_earlier_version_began_before_it_ended() -> None:
    old = record([started("a", 2, r=300), ended("a", TrialState.INFEASIBLE, "no such layer")]).trials["a"]
    new = record([infeasible("a", 2, r=300)]).trials["a"]
    assert old == new


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


def test_a_log_of_an_earlier_version_knows_no_base() -> None:
    assert record([begun(), started("a"), reported("a", 3, 1.0)]).base is None


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


def test_a_sweep_that_has_not_ended_is_not_finished() -> None:
    assert not record([begun()]).is_finished
    assert not SweepRecord().is_finished


def test_the_data_is_what_the_latest_preparation_found() -> None:
    assert record([DataPrepared(time=0.0, summary={"train_rows": 3})]).data == {"train_rows": 3}


# First wins


def numbers(events: list[Event]) -> list[tuple[int, list[int]]]:
    """(step, steps of its history) of each report that is passed on."""
    passed = [event for event, _ in first_wins(events)]
    return [(e.report.step, [s.step for s in e.report.history]) for e in passed if isinstance(e, TrialReported)]


def test_a_report_that_comes_twice_is_passed_on_once() -> None:
    events: list[Event] = [started("a"), reported("a", 3, 1.0), reported("a", 3, 5.0)]
    assert numbers(events) == [(3, [1, 2, 3])]
    *_, (_, last) = first_wins(events)
    assert last.trials["a"].value("eval_loss") == 1.0


def test_steps_that_were_trained_again_are_cut_from_the_history() -> None:
    assert numbers([started("a"), reported("a", 3, 1.0), reported("a", 9, 0.5)]) == [
        (3, [1, 2, 3]),
        (9, [4, 5, 6, 7, 8, 9]),
    ]


def test_a_report_of_an_earlier_step_is_dropped() -> None:
    assert numbers([started("a"), reported("a", 9, 1.0), reported("a", 3, 0.1)]) == [(9, list(range(1, 10)))]


def test_trials_do_not_drop_each_others_reports() -> None:
    events: list[Event] = [started("a"), started("b", 1), reported("a", 9, 1.0), reported("b", 3, 1.0)]
    assert [step for step, _ in numbers(events)] == [9, 3]


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


@pytest.mark.parametrize("config", ["", "[]", "[" * 100_000, '{"objective": 3}'])
def test_a_configuration_that_cannot_be_read_has_the_usual_objective(config: str) -> None:
    assert SweepStarted(sweep_id="toy-1", time=0.0, config=config).objectives() == (LOWEST_LOSS,)


def test_it_reads_as_a_dict_and_earlier_ones_stay_as_they_were():
    rng = random.Random(0)
    mine, plain = Layered({"first": 0}), {"first": 0}
    earlier = []
    for value in range(3 * MOST_ABOVE):
        earlier.append((mine, dict(plain)))
        key = f"t{rng.randrange(2 * MOST_ABOVE)}"
        mine, plain = mine.plus(key, value), {**plain, key: value}
        if value % 7 == 0:
            assert list(mine.items()) == list(plain.items()), "in the order in which the keys came"
    assert mine == plain and mine[key] == value and "none" not in mine
    for then, told in earlier:
        assert then == told and len(then) == len(told)
        assert list(then) == list(told) and list(then.values()) == list(told.values()) and then.keys() == told.keys()


def test_a_new_key_copies_only_what_is_new():
    copies = []

    class Counted(UserDict[int, int]):
        def __iter__(self):
            copies.append(1)
            return super().__iter__()

    mine = Layered(Counted({n: n for n in range(1000)}))
    for n in range(MOST_ABOVE - 1):
        mine = mine.plus(-1 - n, n)
        assert not copies and mine[-1 - n] == n and mine[n] == n
    assert len(mine) == 1000 + MOST_ABOVE - 1 and copies == [1]
