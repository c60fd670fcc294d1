"""What MLflow shows of a trial that its scheduler has parked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sweep_events import begun, ended, parked, reported, started
from tracked_sweeps import NAMED, SWEEP, deliver, keep_adapter, over, run_of

from sweeps.config.model import SweepConfig, Tracking
from sweeps.record.events import Event, TrialState
from sweeps.record.folder import SweepFolder
from sweeps.tracking.sink import MlflowSink

BEFORE: list[Event] = [begun(), started("aaaa", **NAMED), reported("aaaa", 3, 0.7), parked("aaaa", 3)]


@pytest.fixture
def sink(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowSink:
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    folder = SweepFolder(tmp_path / "results" / "demo")
    folder.path.mkdir(parents=True)
    folder.config.write_text("{}")
    keep_adapter(folder, "aaaa", 3)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = SweepConfig(name="demo", trainable="toy", tracking=Tracking(uri=uri, experiment="demo"))
    return MlflowSink(config, SWEEP, folder)


def shown(sink: MlflowSink) -> tuple[str, str, str]:
    """The trial's state, its run's status and its note."""
    run = run_of(MlflowClient(sink._config.tracking.uri), "aaaa")
    return run.data.tags["sweep.state"], run.info.status, run.data.tags["mlflow.note.content"]


def test_a_parked_trial_is_not_over(sink: MlflowSink) -> None:
    deliver(sink, BEFORE)
    assert shown(sink) == ("PARKED", "RUNNING", "PARKED at step 3, 2 s, best 0.7000")
    deliver(sink, [*BEFORE, started("aaaa", **NAMED)])
    assert shown(sink)[:2] == ("RUNNING", "RUNNING")


def test_it_is_stopped_and_no_failure_when_the_sweep_ends(sink: MlflowSink) -> None:
    stopped = ended("aaaa", TrialState.STOPPED, "stopped by the scheduler: rank 2 of 3 at step 3")
    deliver(sink, [*BEFORE, stopped, over()])
    assert shown(sink)[:2] == ("STOPPED", "FINISHED")


def test_it_is_parked_again_when_an_interrupted_sweep_goes_on(sink: MlflowSink) -> None:
    interrupted = [*BEFORE, ended("aaaa", TrialState.PAUSED, by_person_or_budget=True), over("interrupted")]
    deliver(sink, interrupted)
    assert shown(sink)[:2] == ("PAUSED", "KILLED")
    deliver(sink, [*interrupted, begun(200.0), parked("aaaa", 3)])
    assert shown(sink)[:2] == ("PARKED", "RUNNING")


def test_the_note_of_its_sweep_is_true_while_that_is_interrupted_and_while_it_goes_on(sink: MlflowSink) -> None:
    def note(events: list[Event]) -> str:
        deliver(sink, events)
        return run_of(MlflowClient(sink._config.tracking.uri), None).data.tags["mlflow.note.content"]

    interrupted = [*BEFORE, ended("aaaa", TrialState.PAUSED, by_person_or_budget=True), over("interrupted")]
    assert note(interrupted).startswith("**Best so far: t00, eval_loss 0.7000** at step 3")
    assert note([*interrupted, begun(200.0)]) == "RUNNING: the best trial is named here when the sweep ends"
