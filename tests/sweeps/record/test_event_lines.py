"""Every event survives as a line of JSON, and nothing else is taken for one."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sweep_events import begun, history, record, reported

from sweeps.record.events import (
    BaseEvaluated,
    DataPrepared,
    DriverLives,
    EarlierPoint,
    EarlierTrials,
    Event,
    HostsChanged,
    HostsStarted,
    PointInfeasible,
    RequestAnswered,
    SweepEnded,
    SweepPlanned,
    SweepStarted,
    TargetSettled,
    TrialEnded,
    TrialParked,
    TrialReported,
    TrialScored,
    TrialStarted,
    TrialState,
    from_line,
    to_line,
)
from trainables.contract import Report, StepRecord
from trainables.objective import Objective

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=20)
METRICS = st.dictionaries(TEXT, FINITE, max_size=2).flatmap(
    lambda more: FINITE.map(lambda loss: more | {"eval_loss": loss})
)
SCALARS = st.dictionaries(TEXT, st.booleans() | st.integers(-(2**60), 2**60) | FINITE | TEXT, max_size=4)
WORDS = st.lists(TEXT, max_size=3).map(tuple)
POINTS = st.dictionaries(TEXT, st.booleans() | st.integers(-(2**60), 2**60) | FINITE | TEXT | WORDS, max_size=4)
STEPS = st.builds(
    StepRecord,
    step=st.integers(1, 10**9),
    train_loss=FINITE,
    learning_rate=FINITE,
    grad_norm=FINITE,
    tokens=st.integers(0, 2**60),
    seconds=FINITE,
    time=FINITE,
)
REPORTS = st.builds(
    Report,
    step=st.integers(1, 10**9),
    metrics=METRICS,
    best_step=st.integers(1, 10**9),
    best_metrics=METRICS,
    history=st.lists(STEPS, max_size=3).map(tuple),
    tokens=st.integers(0, 2**60),
    seconds=FINITE,
    peak_memory_bytes=st.integers(0, 2**60),
    trainable_params=st.integers(0, 2**60),
    time=FINITE,
)
EVENTS: list[st.SearchStrategy[Event]] = [
    st.builds(SweepStarted, time=FINITE, config=TEXT),
    st.builds(SweepPlanned, time=FINITE, steps=st.integers(1, 10**9), seconds=st.none() | FINITE),
    st.builds(
        HostsStarted,
        time=FINITE,
        since=FINITE,
        hosts=st.integers(1, 99),
        slots=st.integers(1, 99),
        held_seconds=FINITE,
        device=st.sampled_from(["cpu", "cuda"]),
    ),
    st.builds(
        HostsChanged,
        time=FINITE,
        hosts=st.integers(0, 99),
        slots=st.integers(0, 99),
        held=st.integers(0, 99),
    ),
    st.builds(DriverLives, time=FINITE),
    st.builds(DataPrepared, time=FINITE, summary=SCALARS),
    st.builds(BaseEvaluated, time=FINITE, metrics=METRICS, rows=st.integers(1, 10**6), hardware=TEXT),
    st.builds(
        TrialStarted,
        time=FINITE,
        trial_key=TEXT,
        number=st.integers(0, 10**6),
        params=SCALARS,
        spec=TEXT,
        point=st.none() | POINTS,
        is_in_tail=st.none() | st.booleans(),
    ),
    st.builds(
        EarlierTrials,
        time=FINITE,
        sweep_id=TEXT,
        trials=st.lists(st.builds(EarlierPoint, point=POINTS, loss=FINITE), max_size=3).map(tuple),
        is_same_task=st.booleans(),
    ),
    st.builds(TargetSettled, time=FINITE, value=TEXT, same_as=st.none() | TEXT, problem=st.none() | TEXT),
    st.builds(PointInfeasible, time=FINITE, trial_key=TEXT, number=st.integers(0, 10**6), params=SCALARS, reason=TEXT),
    st.builds(TrialReported, time=FINITE, trial_key=TEXT, report=REPORTS, adapter=st.none() | TEXT),
    st.builds(
        TrialScored,
        time=FINITE,
        trial_key=TEXT,
        step=st.integers(1, 10**9),
        metrics=st.dictionaries(TEXT, FINITE, max_size=3),
    ),
    st.builds(TrialParked, time=FINITE, trial_key=TEXT, step=st.integers(1, 10**9)),
    st.builds(
        TrialEnded,
        time=FINITE,
        trial_key=TEXT,
        state=st.sampled_from(TrialState),
        reason=TEXT,
        by_person_or_budget=st.booleans(),
        may_go_on=st.booleans(),
    ),
    st.builds(
        RequestAnswered,
        time=FINITE,
        request=TEXT,
        sender=TEXT,
        asked=TEXT,
        is_accepted=st.booleans(),
        message=TEXT,
        trial_key=st.none() | TEXT,
        point=st.none() | POINTS,
        changes=SCALARS,
    ),
    st.builds(
        SweepEnded,
        time=FINITE,
        reason=st.sampled_from(["finished", "budget", "interrupted", "failed"]),
        message=TEXT,
    ),
]


@settings(deadline=None)
@given(st.one_of(EVENTS))
def test_every_event_survives_as_one_line(event: Event) -> None:
    line = to_line(event)
    assert "\n" not in line
    again = from_line(line)
    assert again == event
    assert type(again) is type(event)
    assert from_line(line.encode()) == event
    assert [type(value) for value in scalars(again)] == [type(value) for value in scalars(event)]


def scalars(event: Event) -> list[object]:
    """Values that JSON could take for another type: 1 and 1.0 and true are equal in Python."""
    match event:
        case DataPrepared(summary=values):
            return list(values.values())
        case TrialStarted():
            return [*event.params.values(), *(event.point or {}).values()]
        case RequestAnswered():
            return [*event.changes.values(), *(event.point or {}).values()]
        case _:
            return []


def test_every_kind_of_event_is_tried_above() -> None:
    assert len(EVENTS) == len(Event.__args__)


def test_the_type_of_an_event_is_in_its_line() -> None:
    assert '"type":"sweep_started"' in to_line(begun())


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"type":"other"}', '{"type":"sweep_ended","time":1}', b"\xff", "x"])
def test_a_line_that_is_no_event_is_refused(line: str | bytes) -> None:
    with pytest.raises(ValueError):
        from_line(line)


def test_a_report_holds_finite_numbers_only() -> None:
    with pytest.raises(ValidationError):
        Report.model_validate(reported("a", 3, 1.0).report.model_dump() | {"metrics": {"eval_loss": math.nan}})
    with pytest.raises(ValidationError):
        StepRecord.model_validate(history(1, 1)[0].model_dump() | {"train_loss": math.inf})


def test_a_report_of_an_earlier_version_is_read():
    """It names no digest of its adapter."""
    event = reported("aaaa", 3, 0.7)
    raw = json.loads(to_line(event))
    assert raw.pop("adapter_sha256") is None
    assert from_line(json.dumps(raw)) == event


def test_metrics_without_a_loss_are_refused() -> None:
    report = reported("a", 9, 2.5).report.model_dump()
    with pytest.raises(ValidationError, match="must have eval_loss"):
        Report.model_validate(report | {"metrics": {"eval_accuracy": 0.5}})


@pytest.mark.parametrize(
    ("config", "objectives"),
    [
        ("{}", (Objective(),)),
        ('{"objective": {"metric": "eval_loss", "mode": "min"}}', (Objective(),)),
        ('{"objective": {"metric": "eval_accuracy", "mode": "max"}}', (Objective(metric="eval_accuracy", mode="max"),)),
        ('{"objective": [{"metric": "eval_loss"}, {"metric": "tokens"}]}', (Objective(), Objective(metric="tokens"))),
    ],
)
def test_the_record_knows_the_objectives_of_the_configuration(config: str, objectives: tuple[Objective, ...]) -> None:
    assert record([SweepStarted(sweep_id="toy-1", time=0.0, config=config)]).objectives == objectives
