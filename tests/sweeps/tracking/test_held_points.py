"""Steps that are trained again, since their events were lost with a machine, do not stand twice in MLflow."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from mlflow import MlflowClient
from sweep_events import base, begun, ended, reported, started
from tracked_sweeps import NAMED, SWEEP, everything, history, keep_adapter, over, run_of

from sweeps.record.events import Event, TrialReported, TrialState
from sweeps.record.first_wins import first_wins
from sweeps.tracking.client import Runs
from sweeps.tracking.held_points import MetricPoint
from sweeps.tracking.sink import MlflowSink

LATER = 1000.0
MIRRORED: list[Event] = [begun(), base(1.5), started("aaaa", **NAMED), reported("aaaa", 3, 0.7)]
LOST = reported("aaaa", 9, 0.6, since=3)


def trained_again(event: TrialReported, **changed: float) -> TrialReported:
    """The event as another machine has it: later, and it took another time."""
    report = event.report
    steps = tuple(
        step.model_copy(update={"time": step.time + LATER, "seconds": step.seconds + 7.0, **changed})
        for step in report.history
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


def test_steps_that_are_trained_again_stand_once(config, folder, client: MlflowClient, lost):
    before = {name: history(client, lost, name) for name in run_of(client, "aaaa").data.metrics}
    assert len(before["train_loss"]) == 9
    go_on(config, folder, MIRRORED, trained_again(LOST))
    assert {name: history(client, lost, name) for name in run_of(client, "aaaa").data.metrics} == before


def test_the_trial_goes_on_behind_what_was_lost(config, folder, client, lost):
    further = reported("aaaa", 27, 0.5, since=9)
    go_on(config, folder, MIRRORED, trained_again(LOST), trained_again(further))
    assert [step for step, _ in history(client, lost, "train_loss")] == list(range(1, 28))
    assert history(client, lost, "eval_loss") == [(3, 0.7), (9, 0.6), (27, 0.5)]
    assert history(client, lost, "seconds") == [(3, 1.5), (9, 4.5), (27, 20.5)]


def test_a_value_that_came_out_otherwise_is_there_and_is_the_latest(config, folder, client, lost):
    again = trained_again(
        LOST.model_copy(update={"report": LOST.report.model_copy(update={"metrics": {"eval_loss": 0.61}})})
    )
    go_on(config, folder, MIRRORED, again)
    assert run_of(client, "aaaa").data.metrics["eval_loss"] == 0.61
    assert history(client, lost, "eval_loss") == [(3, 0.7), (9, 0.6), (9, 0.61)]
    assert len(history(client, lost, "train_loss")) == 9
    once = everything(client)
    go_on(config, folder, [*MIRRORED, begun(LATER), again])
    assert everything(client)[lost][5] == once[lost][5]


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


def test_a_loss_that_is_no_number_stands_once_too(config, folder, sink, client):
    lost = trained_again(LOST, train_loss=float("nan"))
    for event, record in first_wins([*MIRRORED, lost]):
        sink.apply(event, record)
    go_on(config, folder, MIRRORED, trained_again(lost))
    run_id = run_of(client, "aaaa").info.run_id
    assert [point.step for point in client.get_metric_history(run_id, "train_loss")] == list(range(1, 10))


def test_the_base_that_is_evaluated_again_stands_once(config, folder, client, lost):
    parent = run_of(client, None).info.run_id
    again = base(1.5).model_copy(update={"time": LATER})
    go_on(config, folder, MIRRORED[:1], again)
    assert history(client, parent, "base_eval_loss") == [(0, 1.5)]


def test_events_that_are_only_sent_again_ask_for_no_history(config, folder, client, lost, monkeypatch):
    def asked(*_words: str) -> None:
        raise AssertionError("a request for each metric")

    once = everything(client)
    monkeypatch.setattr(MlflowClient, "get_metric_history", asked)
    go_on(config, folder, [*MIRRORED, LOST])
    monkeypatch.undo()
    assert everything(client)[lost][5] == once[lost][5]


def test_a_trial_that_began_in_the_lost_seconds_and_not_again_is_not_left_running(config, folder, client, lost):
    end = ended("bbbb", TrialState.COMPLETED)
    go_on(config, folder, MIRRORED[:2], started("bbbb", 1, LATER, **NAMED), end, over())
    assert run_of(client, "aaaa").info.status == "KILLED"
    assert run_of(client, "bbbb").info.status == "FINISHED"


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


def test_runs_that_were_made_here_hold_nothing(uri, client):
    runs = Runs(uri, "family", SWEEP)
    run_id = runs.create({"sweep.id": SWEEP}, "demo", {}, 0.0)
    for time in (1.0, 2.0):
        runs.log(run_id, [MetricPoint("loss", 0.5, time, 3)])
    assert history(client, run_id, "loss") == [(3, 0.5), (3, 0.5)]
