"""A sweep that is killed after any event and goes on has the same trials at the same points as one that was not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from sweep_events import reported
from sweep_files import toy

from sweeps.record.events import Event, PointInfeasible, TrialEnded, TrialStarted, TrialState, from_line, to_line
from sweeps.record.sweep_record import SweepRecord, new_events
from sweeps.supply.trial_source import PlannedTrial, TrialSource

RUNGS = (1, 3, 9)
SPACE: dict[str, Any] = {
    "adapter.r": {"choice": [8, 16, 32, 64], "prior": 16},
    "adapter.target_modules": {"choice": ["attention-qv", ["k_proj", "v_proj"], "all-linear"]},
    "adapter.use_rslora": {"choice": [False, True]},
    "adapter.lora_alpha": {"choice": [8, 32, 128], "when": {"adapter.use_rslora": True}},
}
RATES = {"training.learning_rate": {"loguniform": [1e-5, 1e-2], "prior": 1e-3}}


def loss(trial: PlannedTrial, step: int) -> float:
    distance = math.log10(trial.spec.training.learning_rate / 3e-4) ** 2
    return 2 + distance + 1 / trial.spec.adapter.r + 1 / step


def happens(trial: PlannedTrial, record: SweepRecord) -> Iterable[Event]:
    """What becomes of a trial from where the record leaves it: it depends on its point alone."""
    key, spec = trial.trial_key, trial.spec
    who: dict[str, Any] = {"time": 1.0, "trial_key": key, "number": trial.number, "params": dict(trial.params)}
    who["point"] = dict(trial.point)
    if spec.adapter.r == 64 and spec.adapter.target_modules == "all-linear":
        yield PointInfeasible(**who, reason="no such layer")
        return
    known = record.trials.get(key)
    if known is None:
        yield TrialStarted(**who, spec=spec.model_dump_json())
    state = TrialState.COMPLETED
    for last, step in zip((0, *RUNGS), RUNGS, strict=False):
        if spec.training.learning_rate > 4e-3:
            state = TrialState.DIVERGED
            break
        if spec.adapter.r == 64 and step == 3:
            state = TrialState.OUT_OF_MEMORY
            break
        if known is None or known.step < step:
            yield reported(key, step, loss(trial, step), since=last)
        if loss(trial, step) > 2.6 + 1 / step and trial.number != 0 and step < RUNGS[-1]:
            state = TrialState.STOPPED
            break
    yield TrialEnded(time=2.0, trial_key=key, state=state, reason="")


def played(kind: str, past: Iterable[Event], trials: int = 13) -> list[Event]:
    """The events of a sweep on one slot that goes on after `past`, to its end."""
    space = SPACE if kind == "grid" else SPACE | RATES
    searcher = {"kind": kind, "points": [{"adapter.r": 32}]}
    config, parsed = toy(space, searcher=searcher, budget={"trials": trials, "steps_per_trial": 9})
    parsed = parsed.with_base({"adapter.use_rslora": False})
    story: list[Event] = []
    record = SweepRecord()

    def add(events: Iterable[Event]) -> None:
        nonlocal record
        for event, after in new_events(events, record):
            story.append(from_line(to_line(event)))
            record = after

    add(past)
    source = TrialSource(config, parsed, replace(record, fingerprints={"toy": "1"}))
    while (trial := source.next(record)) is not None:
        add(happens(trial, record))
    return story


@pytest.mark.parametrize("kind", ["random", "grid", "tpe", "prior"])
def test_a_sweep_that_was_killed_after_any_event_goes_on_as_if_it_had_not_been(kind: str) -> None:
    whole = played(kind, [])
    points = [event.point for event in whole if isinstance(event, TrialStarted | PointInfeasible)]
    assert len(points) >= 13
    assert {type(event) for event in whole} >= {TrialStarted, TrialEnded}
    for killed_after in range(len(whole)):
        assert played(kind, whole[:killed_after]) == whole, killed_after


def test_learning_changes_the_points() -> None:
    """Otherwise the tests above say nothing of what searchers are told."""

    def distance(kind: str) -> float:
        begun = [event for event in played(kind, [], 16) if isinstance(event, TrialStarted)]
        return sum(abs(math.log10(float(event.params["learning_rate"]) / 3e-4)) for event in begun[-8:])

    assert max(distance("prior"), distance("tpe")) < distance("random")
