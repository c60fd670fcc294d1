"""What MLflow shows of a trial that its scheduler has parked."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient
from sweep_events import begun, ended, parked, reported, started
from tracked_sweeps import NAMED, deliver, keep_adapter, over, run_of

from sweeps.record.events import Event, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.tracking.sink import MlflowSink

BEFORE: list[Event] = [begun(), started("aaaa", **NAMED), reported("aaaa", 3, 0.7), parked("aaaa", 3)]


@pytest.fixture(autouse=True)
def adapter(folder: SweepFolder) -> None:
    keep_adapter(folder, "aaaa", 3)


def shown(client: MlflowClient) -> tuple[str, str, str]:
    """The trial's state, its run's status and its note."""
    run = run_of(client, "aaaa")
    return run.data.tags["sweep.state"], run.info.status, run.data.tags["mlflow.note.content"]


def test_a_parked_trial_is_not_over(sink: MlflowSink, client: MlflowClient) -> None:
    deliver(sink, BEFORE)
    assert shown(client) == ("PARKED", "RUNNING", "PARKED at step 3, 2 s, best 0.7000")
    deliver(sink, [*BEFORE, started("aaaa", **NAMED)])
    assert shown(client)[:2] == ("RUNNING", "RUNNING")


def test_it_is_stopped_and_no_failure_when_the_sweep_ends(sink: MlflowSink, client: MlflowClient) -> None:
    stopped = ended("aaaa", TrialState.STOPPED, "stopped by the scheduler: rank 2 of 3 at step 3")
    deliver(sink, [*BEFORE, stopped, over()])
    assert shown(client)[:2] == ("STOPPED", "FINISHED")


def test_it_is_parked_again_when_an_interrupted_sweep_goes_on(sink: MlflowSink, client: MlflowClient) -> None:
    interrupted = [*BEFORE, ended("aaaa", TrialState.PAUSED, by_person_or_budget=True), over("interrupted")]
    deliver(sink, interrupted)
    assert shown(client)[:2] == ("PAUSED", "KILLED")
    deliver(sink, [*interrupted, begun(200.0), parked("aaaa", 3)])
    assert shown(client)[:2] == ("PARKED", "RUNNING")


def test_the_note_of_its_sweep_is_true_while_that_is_interrupted_and_while_it_goes_on(
    sink: MlflowSink, client: MlflowClient
) -> None:
    def note(events: list[Event]) -> str:
        deliver(sink, events)
        return run_of(client, None).data.tags["mlflow.note.content"]

    interrupted = [*BEFORE, ended("aaaa", TrialState.PAUSED, by_person_or_budget=True), over("interrupted")]
    assert note(interrupted).startswith("**Best so far: t00, eval_loss 0.7000** at step 3")
    assert note([*interrupted, begun(200.0)]) == "RUNNING: the best trial is named here when the sweep ends"
