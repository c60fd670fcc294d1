"""Another driver goes on in a sweep's runs, of which some are doubled, and some hold more than its log.

A create whose answer was lost may take effect late: of two runs of a trial one stays. A sweep that goes on from its
mirror has a log without the last seconds of the machine that was lost, which MLflow has seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from mlflow import MlflowClient
from sweep_events import base, begun, ended, reported, started
from tracked_sweeps import (
    NAMED,
    PARAMS,
    SWEEP,
    deliver,
    everything,
    history,
    keep_adapter,
    over,
    run_of,
    runs,
    sweep_events,
)

from sweeps.record.events import Event, TrialReported, TrialState
from sweeps.record.sweep_record import new_events
from sweeps.tracking.client import Runs
from sweeps.tracking.sink import MlflowSink

# Doubled runs


def double(client: MlflowClient, of) -> str:
    """What a create leaves that took effect after its answer was given up."""
    tags = {key: value for key, value in of.data.tags.items() if key.startswith("sweep.")}
    return client.create_run(of.info.experiment_id, start_time=of.info.start_time, tags=tags).info.run_id


def active(client: MlflowClient) -> set[str]:
    return {run.info.run_id for run in runs(client) if run.info.lifecycle_stage == "active"}


@pytest.mark.parametrize("is_taken_over", [False, True])
def test_runs_whose_creation_came_late_are_gone_when_the_sweep_has_ended(sink, config, folder, client, is_taken_over):
    events = list(new_events(sweep_events(folder)))
    for event, known in events[:-1]:
        sink.apply(event, known)
    used = active(client)
    doubles = {double(client, run_of(client, key)) for key in (None, "aaaa")}
    assert active(client) == used | doubles
    if is_taken_over:
        sink = MlflowSink(config, SWEEP, folder)
        sink.attach(events[-2][1])
    sink.apply(*events[-1])
    assert active(client) == used


@pytest.mark.parametrize("key", [None, "aaaa"])
def test_of_two_runs_without_metrics_the_one_with_the_params_stays(sink, config, folder, client, key):
    events: list[Event] = [begun(), started("aaaa", **PARAMS)]
    deliver(sink, events)
    used, written = active(client), run_of(client, key)
    # MLflow's ids are random: some of these sort before that of the run with the params, some behind it.
    doubles = [double(client, written)]
    while min(doubles) > written.info.run_id:
        doubles.append(double(client, written))
    *_, (_, record) = new_events(events)
    MlflowSink(config, SWEEP, folder).attach(record)
    assert active(client) == used


def test_a_new_trial_is_not_searched_for_unless_an_error_came_between(sink, config, folder, client, monkeypatch):
    searched: list[str] = []
    of_sweep = Runs.of_sweep

    def noted(of: Runs, *words: Any) -> Any:
        searched.append(of.uri)
        return of_sweep(of, *words)

    def searches() -> int:
        """Threads of sweeps in other stores may still search."""
        return searched.count(config.tracking.uri)

    monkeypatch.setattr(Runs, "of_sweep", noted)
    told = list(new_events(sweep_events(folder)))
    for event, record in told[:5]:
        sink.apply(event, record)
    assert searches() == 1
    sink.forget()
    for event, record in (told[5], *new_events([started("cccc", 2, **PARAMS)], told[5][1])):
        sink.apply(event, record)
    assert (searches(), len(runs(client))) == (2, 4)


# A machine that was lost

LATER = 1000.0
MIRRORED: list[Event] = [begun(), base(1.5), started("aaaa", **NAMED), reported("aaaa", 3, 0.7)]
LOST = reported("aaaa", 9, 0.6, since=3)


def trained_again(event: TrialReported) -> TrialReported:
    """The event as another machine has it: later, and it took another time."""
    steps = tuple(
        step.model_copy(update={"time": step.time + LATER, "seconds": step.seconds + 7.0}) for step in event.history
    )
    times = {"time": event.time + LATER, "evaluated_time": event.evaluated_time + LATER}
    return event.model_copy(update={**times, "seconds": event.seconds + 7.0, "history": steps})


def go_on(config, folder, before: Sequence[Event], *events: Event) -> None:
    """Another driver, whose log has `before` from the mirror, sends it again and goes on."""
    sink = MlflowSink(config, SWEEP, folder)
    told = list(new_events([*before, begun(LATER), *events]))
    sink.attach(told[len(before) - 1][1])
    for event, record in told:
        sink.apply(event, record)


@pytest.fixture
def lost(sink, client) -> str:
    """The run of a trial that a machine had trained to step 9 when it was lost; its mirror has step 3."""
    deliver(sink, [*MIRRORED, LOST])
    return run_of(client, "aaaa").info.run_id


def test_the_trial_goes_on_behind_what_was_lost_in_the_same_run(config, folder, client, lost):
    further = reported("aaaa", 27, 0.5, since=9)
    go_on(config, folder, MIRRORED, trained_again(LOST), trained_again(further))
    shown = run_of(client, "aaaa")
    assert (shown.info.run_id, shown.data.metrics["eval_loss"]) == (lost, 0.5)
    # MLflow tells points of one step apart by their times.
    assert history(client, lost, "eval_loss") == [(3, 0.7), (9, 0.6), (9, 0.6), (27, 0.5)]


def test_a_trial_that_ends_before_what_was_lost_shows_its_own_values(config, folder, client, lost):
    keep_adapter(folder, "aaaa", 3)
    end = ended("aaaa", TrialState.STOPPED).model_copy(update={"time": LATER + 50})
    go_on(config, folder, MIRRORED, end)
    shown = run_of(client, "aaaa").data.metrics
    assert {name: shown[name] for name in ("eval_loss", "best_eval_loss", "best_step", "steps", "seconds")} == {
        "eval_loss": 0.7, "best_eval_loss": 0.7, "best_step": 3, "steps": 3, "seconds": 1.5,
    }  # fmt: skip
    assert history(client, lost, "eval_loss") == [(3, 0.7), (9, 0.6), (10, 0.7)]
    assert len(history(client, lost, "train_loss")) == 9
    once = everything(client)
    # The next driver takes nothing for lost, nor does it log anything twice.
    go_on(config, folder, [*MIRRORED, begun(LATER), end])
    assert everything(client)[lost][5] == once[lost][5]


def test_a_clock_that_was_ahead_on_the_lost_machine_changes_nothing_of_that(config, folder, client, lost):
    keep_adapter(folder, "aaaa", 3)
    go_on(config, folder, MIRRORED, ended("aaaa", TrialState.STOPPED).model_copy(update={"time": 1.0}))
    assert run_of(client, "aaaa").data.metrics["eval_loss"] == 0.7


def test_a_trial_that_ended_in_the_lost_seconds_is_no_trial_of_the_sweep(config, folder, sink, client):
    keep_adapter(folder, "aaaa", 9)
    deliver(sink, [*MIRRORED, LOST, ended("aaaa", TrialState.COMPLETED)])
    assert run_of(client, "aaaa").data.tags["sweep.state"] == "COMPLETED"
    end = ended("bbbb", TrialState.COMPLETED)
    go_on(config, folder, MIRRORED[:2], started("bbbb", 0, LATER, **NAMED), end, over())
    left = run_of(client, "aaaa")
    assert (left.info.status, left.data.tags["sweep.state"]) == ("KILLED", "FAILED")
    assert left.data.tags["mlflow.note.content"].startswith("lost with its machine")
    assert run_of(client, "bbbb").data.tags["sweep.state"] == "COMPLETED"
