"""What MLflow shows of a trial that its scheduler has parked."""

from __future__ import annotations

from mlflow import MlflowClient
from sweep_events import begun, ended, parked, reported, started
from tracked_sweeps import NAMED, deliver, keep_adapter, over, run_of

from sweeps.record.events import Event, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.tracking.sink import MlflowSink


def test_a_parked_trial_is_not_over_and_is_parked_again_when_an_interrupted_sweep_goes_on(
    sink: MlflowSink, client: MlflowClient, folder: SweepFolder
) -> None:
    keep_adapter(folder, "aaaa", 3)
    events: list[Event] = []

    def shown(*more: Event) -> tuple[str, str, str]:
        """The trial's state and its run's status once more was delivered, and the sweep's note."""
        events.extend(more)
        deliver(sink, events)
        run, note = run_of(client, "aaaa"), run_of(client, None).data.tags["mlflow.note.content"]
        return run.data.tags["sweep.state"], run.info.status, note.splitlines()[0]

    runs_on = "RUNNING: the best trial is named here when the sweep ends"
    begins = started("aaaa", **NAMED)
    assert shown(begun(), begins, reported("aaaa", 3, 0.7), parked("aaaa", 3)) == ("PARKED", "RUNNING", runs_on)
    assert run_of(client, "aaaa").data.tags["mlflow.note.content"] == "PARKED at step 3, 2 s, best 0.7000"
    assert shown(begins) == ("RUNNING", "RUNNING", runs_on)
    paused = ended("aaaa", TrialState.PAUSED, by_person_or_budget=True)
    state, status, note = shown(parked("aaaa", 3), paused, over("interrupted"))
    assert (state, status) == ("PAUSED", "KILLED")
    assert note.startswith("**Best so far: t00, eval_loss 0.7000** at step 3")
    assert shown(begun(200.0), parked("aaaa", 3)) == ("PARKED", "RUNNING", runs_on)
