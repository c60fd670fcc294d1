"""Events add up to a record, and what was said before is dropped."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sweep_events import (
    answered,
    base,
    begun,
    ended,
    history,
    hosts,
    infeasible,
    parked,
    record,
    reported,
    scored,
    started,
)  # fmt: skip

from sweeps.record.events import (
    DataPrepared,
    DriverLives,
    EarlierPoint,
    EarlierTrials,
    Event,
    HostsChanged,
    PathSettled,
    SweepEnded,
    SweepPlanned,
    SweepStarted,
    TargetSettled,
    TrialEnded,
    TrialReported,
    TrialState,
    from_line,
    to_line,
)  # fmt: skip
from sweeps.record.sweep_record import new_events
from trainables.contract import StepRecord
from trainables.engine_paths import EnginePath
from trainables.objective import Objective

TEXT = "\n\u2028\x00\\ 'é' \N{GRINNING FACE}"
SCALARS: dict[str, Any] = {"count": 2**60, "one": 1.0, "small": 5e-324, "is": True, "text": TEXT}
POINT: dict[str, Any] = {**SCALARS, "modules": ("q_proj", TEXT)}
EACH: list[Event] = [
    SweepStarted(time=0.1, sweep_id="x", config="{}", fingerprints={TEXT: TEXT}),
    SweepPlanned(time=0.0, steps=9, seconds=None),
    hosts(),
    HostsChanged(time=1.0, hosts=3, slots=3, held=3),
    PathSettled(time=1.0, base=TEXT, path=EnginePath(engine="flat", residency="4bit")),
    DriverLives(time=1.0),
    DataPrepared(time=1.0, summary=SCALARS, warnings=(TEXT, "")),
    base(4.5),
    TargetSettled(time=1.0, value=TEXT, same_as="mlp"),
    EarlierTrials(time=1.0, sweep_id="y", trials=(EarlierPoint(point=POINT, loss=1.0),), is_same_task=True),
    started("a", **SCALARS).model_copy(update={"point": POINT, "is_in_tail": False}),
    infeasible("a", reason=TEXT, **SCALARS),
    reported("a", 3, 2.0),
    scored("a", 3, exact_match=0.5),
    parked("a", 3),
    ended("a", TrialState.STOPPED, TEXT, history=history(4, 5)),
    answered(point=POINT, changes={**SCALARS, "none": None}),
    SweepEnded(time=9.0, reason="budget", message=TEXT),
]


def scalars(event: Event) -> list[object]:
    """Values that JSON could take for another type: 1 and 1.0 and true are equal in Python."""
    told = [getattr(event, name, None) or {} for name in ("summary", "params", "point", "changes")]
    return [value for each in told for value in each.values()]


def test_every_event_survives_as_one_line() -> None:
    assert {type(event) for event in EACH} == set(Event.__args__)
    for event in EACH:
        line = to_line(event)
        again = from_line(line)
        assert "\n" not in line and from_line(line.encode()) == again == event and type(again) is type(event)
        assert [type(value) for value in scalars(again)] == [type(value) for value in scalars(event)]


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"type":"other"}', '{"type":"sweep_ended","time":1}', b"\xff", "x"])
def test_a_line_that_is_no_event_is_refused(line: str | bytes) -> None:
    with pytest.raises(ValueError):
        from_line(line)


def test_a_report_holds_finite_numbers_only_and_a_loss() -> None:
    report = reported("a", 3, 1.0).model_dump()
    for metrics in ({"eval_loss": math.nan}, {"eval_accuracy": 0.5}):
        with pytest.raises(ValidationError):
            TrialReported.model_validate(report | {"metrics": metrics})
    with pytest.raises(ValidationError):
        StepRecord.model_validate(history(1, 1)[0].model_dump() | {"train_loss": math.inf})


@pytest.mark.parametrize(
    ("told", "objectives"),
    [
        ("{}", (Objective(),)),
        ('{"metric": "eval_accuracy", "mode": "max"}', (Objective(metric="eval_accuracy", mode="max"),)),
        ('[{"metric": "eval_loss"}, {"metric": "tokens"}]', (Objective(), Objective(metric="tokens"))),
    ],
)
def test_the_record_knows_the_objectives_of_the_configuration(told: str, objectives: tuple[Objective, ...]) -> None:
    assert record([begun(config=f'{{"objective": {told}}}')]).objectives == objectives


def test_a_trial_is_what_its_events_say() -> None:
    reports = reported("a", 3, 2.0), reported("a", 9, 2.5, since=3, best=(3, 2.0))
    end = ended("a", TrialState.STOPPED, "stopped by the scheduler")
    trial = record([begun(), started("a", 3, r=8), *reports, end]).trials["a"]
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
    assert [event for event, _ in new_events([*told, again])] == [event for event in told if event is not late]


def test_a_finalist_that_goes_on_is_scored_anew() -> None:
    """With its score no later report could be its best."""
    stopped = ended("a", TrialState.STOPPED, "budget", by_person_or_budget=True, may_go_on=True)
    over = [begun(), hosts(), *FINALIST, stopped, scored("a", 3, exact_match=0.5)]
    assert record(over).trials["a"].value("exact_match") == 0.5
    going_on = record([*over, begun(100.0), hosts(101.0)]).trials["a"]
    assert (going_on.state, going_on.best_step, going_on.best_metrics) == (TrialState.PAUSED, 3, {"eval_loss": 2.0})
    again = record([*over, begun(100.0), hosts(101.0), scored("a", 3, exact_match=0.5)]).trials["a"]
    assert again.value("exact_match") == 0.5


def test_a_point_that_never_held_a_slot_is_an_infeasible_trial_once() -> None:
    trial = record([begun(), infeasible("a", 4, "adapter.r: 300 exceeds 256", r=300)]).trials["a"]
    assert (trial.number, trial.params, trial.state) == (4, {"r": 300}, TrialState.INFEASIBLE)
    assert (trial.reason, trial.step, trial.best_step, trial.adapter) == ("adapter.r: 300 exceeds 256", 0, None, None)
    assert math.isnan(trial.value("eval_loss"))
    events: list[Event] = [infeasible("a"), infeasible("a", reason="again"), started("b"), infeasible("b")]
    assert [event for event, _ in new_events(events)] == [events[0], events[2]]


def test_a_trial_that_goes_on_keeps_what_it_had_and_states_that_occur_are_counted_in_a_fixed_order() -> None:
    before: list[Event] = [started("a", 2), reported("a", 3, 2.0), ended("a", TrialState.PAUSED, "interrupted")]
    whole = record([*before, started("b"), ended("b", TrialState.FAILED), started("c"), started("a", 7)])
    trial = whole.trials["a"]
    assert (trial.state, trial.reason, trial.number, trial.step) == (TrialState.RUNNING, "", 2, 3)
    assert list(whole.counts().items()) == [("RUNNING", 2), ("FAILED", 1)]


def test_no_event_keeps_a_password_of_a_failure() -> None:
    message = "ConnectionError: http://user:secret@proxy:3128 refused"
    failed = TrialEnded(time=1.0, trial_key="a", state=TrialState.FAILED, reason=message)
    left = SweepEnded(time=2.0, reason="failed", message=message)
    assert failed.reason == left.message == "ConnectionError: http://user:***@proxy:3128 refused"


def test_a_sweep_that_goes_on_keeps_its_start_its_configuration_and_its_base_and_is_open_again() -> None:
    first, second = (begun(time, f'{{"seed": {time}}}') for time in (5, 100))
    over = record([first, base(4.5), SweepEnded(time=9.0, reason="interrupted")])
    assert over.ended is not None and over.ended.reason == "interrupted"
    *passed, (last, again) = new_events([second, base(4.4)], over)
    assert (passed, last) == ([], second)
    assert (again.started, again.resumed, again.ended, again.config) == (5.0, 100.0, None, '{"seed": 5}')
    assert again.base == base(4.5)


def test_time_between_drivers_is_not_spent() -> None:
    whole = record([begun(0.0), SweepEnded(time=40.0, reason="interrupted"), begun(1000.0), started("a", time=1060.0)])
    assert whole.spent_seconds == 40.0
    assert whole.apply(begun(5000.0)).spent_seconds == 100.0  # a driver that was killed: until its last event


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
def test_a_sweep_is_finished_when_it_ended_by_itself_with_every_trial_over(reason, state, finished):
    end = SweepEnded.model_validate({"time": 9.0, "reason": reason})
    assert record([begun(), started("a"), ended("a", state), end]).is_finished is finished


def test_new_events_go_on_from_a_record() -> None:
    before = record([started("a"), reported("a", 3, 1.0)])
    assert list(new_events([reported("a", 3, 0.5)], before)) == []
    ((event, after),) = new_events([reported("a", 5, 0.5)], before)
    assert isinstance(event, TrialReported)
    assert [step.step for step in event.history] == [4, 5]
    assert after.trials["a"].step == 5


def test_a_trial_that_may_go_on_keeps_its_steps_and_reports_where_it_was_not_evaluated() -> None:
    """A budget of time ended it after its last step before a report point, which it stood at."""
    over = ended("a", TrialState.STOPPED, "rank 5 of 8", history=history(4, 9), may_go_on=True)
    before: list[Event] = [begun(), started("a"), reported("a", 3, 1.0), over, SweepEnded(time=99.0, reason="budget")]
    assert record(before).is_finished
    known = record([*before, begun(100.0), hosts(101.0)])
    assert (known.trials["a"].state, known.trials["a"].reason) == (TrialState.PAUSED, "")
    assert (known.trials["a"].step, known.trials["a"].reported_step) == (9, 3)
    ((event, after),) = new_events([reported("a", 9, 0.5, since=3)], known)
    assert isinstance(event, TrialReported)
    assert event.history == ()
    assert after.trials["a"].evals[-1] == (9, {"eval_loss": 0.5})


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 12)), max_size=12), st.randoms())
def test_no_step_of_a_trial_is_passed_on_twice_and_telling_all_again_changes_nothing(
    reports: list[tuple[str, int]], rng: random.Random
) -> None:
    """As a driver that goes on does, and a log that is read twice."""
    opening: list[Event] = [started("a"), started("b", 1)]
    first = [reported(key, step, 1.0) for key, step in reports]
    *_, (_, once) = new_events([*opening, *first])
    told: dict[str, list[int]] = {"a": [], "b": []}
    twice = list(new_events([*opening, *first, *rng.sample(first, len(first))]))
    assert twice[-1][1].trials == once.trials
    for event, _ in twice:
        if isinstance(event, TrialReported):
            told[event.trial_key] += [step.step for step in event.history]
    for key, steps in told.items():
        assert steps == list(range(1, max((step for other, step in reports if other == key), default=0) + 1))
