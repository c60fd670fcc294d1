"""A sweep goes on from its mirror: MLflow may hold more of it than its log, from the machine that was lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sweep_events import base, begun, ended, reported, started
from tracked_sweeps import NAMED, SWEEP, everything, history, keep_adapter, over, run_of

from sweeps.record.events import Event, TrialReported, TrialState
from sweeps.record.sweep_record import first_wins
from sweeps.tracking.sink import MlflowSink

LATER = 1000.0
MIRRORED: list[Event] = [begun(), base(1.5), started("aaaa", **NAMED), reported("aaaa", 3, 0.7)]
LOST = reported("aaaa", 9, 0.6, since=3)


def trained_again(event: TrialReported) -> TrialReported:
    """The event as another machine has it: later, and it took another time."""
    report = event.report
    steps = tuple(
        step.model_copy(update={"time": step.time + LATER, "seconds": step.seconds + 7.0}) for step in report.history
    )
    update = {"time": report.time + LATER, "seconds": report.seconds + 7.0, "history": steps}
    return event.model_copy(update={"time": event.time + LATER, "report": report.model_copy(update=update)})


def go_on(config, folder, before: Sequence[Event], *events: Event) -> MlflowSink:
    """Another driver, whose log has `before` from the mirror, sends it again and goes on."""
    sink = MlflowSink(config, SWEEP, folder)
    told = list(first_wins([*before, begun(LATER), *events]))
    sink.attach(told[len(before) - 1][1])
    for event, record in told:
        sink.apply(event, record)
    return sink


@pytest.fixture
def lost(sink, folder, client) -> str:
    """The run of a trial that a machine had trained to step 9 when it was lost; its mirror has step 3."""
    for event, record in first_wins([*MIRRORED, LOST]):
        sink.apply(event, record)
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
    assert history(client, lost, "eval_loss") == [(3, 0.7), (9, 0.6), (9, 0.7)]
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
    adapter = folder.trial("aaaa") / "best-000009" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter.parent / "eval_rows.json").write_text("{}")
    for event, record in first_wins([*MIRRORED, LOST, ended("aaaa", TrialState.COMPLETED)]):
        sink.apply(event, record)
    assert run_of(client, "aaaa").data.tags["sweep.state"] == "COMPLETED"
    end = ended("bbbb", TrialState.COMPLETED)
    go_on(config, folder, MIRRORED[:2], started("bbbb", 0, LATER, **NAMED), end, over())
    left = run_of(client, "aaaa")
    assert (left.info.status, left.data.tags["sweep.state"]) == ("KILLED", "FAILED")
    assert left.data.tags["mlflow.note.content"].startswith("lost with its machine")
    assert run_of(client, "bbbb").data.tags["sweep.state"] == "COMPLETED"
