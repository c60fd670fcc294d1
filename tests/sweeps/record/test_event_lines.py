"""Every event survives as a line of JSON, and nothing else is taken for one."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from sweep_events import begun, history, record, reported

from sweeps.record.events import EarlierPoint, Event, SweepEnded, SweepStarted, TrialState, from_line, to_line
from trainables.contract import Report, StepRecord
from trainables.objective import Objective

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=20)
COUNT = st.integers(1, 2**60)
SCALAR = st.booleans() | st.integers(-(2**60), 2**60) | FINITE | TEXT
SCALARS = st.dictionaries(TEXT, SCALAR, max_size=4)
METRICS = st.builds(lambda more, loss: more | {"eval_loss": loss}, st.dictionaries(TEXT, FINITE, max_size=2), FINITE)
POINTS = st.dictionaries(TEXT, SCALAR | st.lists(TEXT, max_size=3).map(tuple), max_size=4)


def several(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(values, max_size=3).map(tuple)


def made(kind: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Objects of a kind with any value in each field that `FIELDS` knows; the others have their default."""
    named = FIELDS | ({"reason": ENDS} if kind is SweepEnded else {})
    return st.fixed_dictionaries({name: named[name] for name in kind.model_fields if name in named}).map(
        lambda values: kind(**values)
    )


ENDS = st.sampled_from(["finished", "budget", "interrupted", "failed"])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["time", "since", "seconds", "held_seconds", "loss"], FINITE),
    **dict.fromkeys(["train_loss", "learning_rate", "grad_norm"], FINITE),
    **dict.fromkeys(["steps", "step", "best_step", "hosts", "slots", "held", "rows", "number", "tokens"], COUNT),
    **dict.fromkeys(["peak_memory_bytes", "trainable_params", "gpus_per_host", "answered"], COUNT),
    **dict.fromkeys(["config", "sweep_id", "trial_key", "spec", "engine", "hardware", "value", "reason"], TEXT),
    **dict.fromkeys(["request", "sender", "asked", "message"], TEXT),
    **dict.fromkeys(["same_as", "problem", "repeats", "adapter", "adapter_sha256"], st.none() | TEXT),
    **dict.fromkeys(["is_same_task", "is_own", "may_go_on", "by_person_or_budget", "is_accepted"], st.booleans()),
    **dict.fromkeys(["is_in_tail", "is_gain"], st.none() | st.booleans()),
    **dict.fromkeys(["summary", "params", "changes"], SCALARS),
    **dict.fromkeys(["metrics", "best_metrics"], METRICS),
    "device": st.sampled_from(["cpu", "cuda"]),
    "state": st.sampled_from(TrialState),
    "point": POINTS,
    "fingerprints": st.dictionaries(TEXT, TEXT, max_size=3),
    "warnings": several(TEXT),
    "history": st.deferred(lambda: several(made(StepRecord))),
    "report": st.deferred(lambda: made(Report)),
    "trials": st.deferred(lambda: several(made(EarlierPoint))),
}


@settings(deadline=None)
@given(st.one_of([made(kind) for kind in Event.__args__]))
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
    told = [getattr(event, name, None) or {} for name in ("summary", "params", "point", "changes")]
    return [value for each in told for value in each.values()]


@pytest.mark.parametrize("line", ["", "{}", "[]", '{"type":"other"}', '{"type":"sweep_ended","time":1}', b"\xff", "x"])
def test_a_line_that_is_no_event_is_refused(line: str | bytes) -> None:
    assert '"type":"sweep_started"' in to_line(begun())
    with pytest.raises(ValueError):
        from_line(line)


def test_a_report_holds_finite_numbers_only_and_a_loss() -> None:
    report = reported("a", 3, 1.0).report.model_dump()
    for metrics in ({"eval_loss": math.nan}, {"eval_accuracy": 0.5}):
        with pytest.raises(ValidationError):
            Report.model_validate(report | {"metrics": metrics})
    with pytest.raises(ValidationError):
        StepRecord.model_validate(history(1, 1)[0].model_dump() | {"train_loss": math.inf})


@pytest.mark.parametrize(
    ("config", "objectives"),
    [
        ("{}", (Objective(),)),
        ('{"objective": {"metric": "eval_accuracy", "mode": "max"}}', (Objective(metric="eval_accuracy", mode="max"),)),
        ('{"objective": [{"metric": "eval_loss"}, {"metric": "tokens"}]}', (Objective(), Objective(metric="tokens"))),
    ],
)
def test_the_record_knows_the_objectives_of_the_configuration(config: str, objectives: tuple[Objective, ...]) -> None:
    assert record([SweepStarted(sweep_id="toy-1", time=0.0, config=config)]).objectives == objectives
