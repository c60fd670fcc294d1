"""A sweep from launch to its closing lines with its folder on an object store; its trials are a function, not Ray's."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import mirrors
import object_stores
import pytest
from mlflow import MlflowClient
from tracked_sweeps import PARAMS

from sweeps import launch as launching
from sweeps import saved_sweep
from sweeps.config import load
from sweeps.errors import SweepError
from sweeps.mirror import timeouts
from sweeps.mirror.fetching import fetch
from sweeps.record.events import DriverLives, SweepEnded, TrialStarted
from sweeps.record.folder import SweepFolder
from sweeps.report import summary
from trainables.specs import TrialSpec


@pytest.fixture
def store(tmp_path, monkeypatch, empty_database):
    """A store for the sweeps of an empty folder, which has a database."""
    mirrors.hurry(monkeypatch)
    monkeypatch.setattr(timeouts, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(launching, "_keep_rates", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    with object_stores.running() as found:
        yield found


def trials(monkeypatch, meanwhile=lambda running: None):
    """Makes a trial that ends well the training of each sweep; `meanwhile` is called before it ends."""

    def drive(running, deliver):
        deliver()
        spec = TrialSpec(trainable="toy", seed=5).model_dump_json()
        running.journal.add(TrialStarted(time=1.0, trial_key="k1", number=0, params=PARAMS, spec=spec, point={}))
        driver = mirrors.Drive(running.folder, running.journal, running.mirror)
        driver.report("k1", 3)
        meanwhile(running)
        if running.stop.reason is None:
            driver.finish("k1")
        reason: Any = running.stop.reason or "finished"
        running.journal.add(SweepEnded(time=2.0, reason=reason, message=running.stop.message))
        return launching._Trained()

    monkeypatch.setattr(launching, "_drive", drive)


def launched(store):
    sweep = load.load("toy", [f"storage={store.uri}"], Path.cwd())
    return sweep, launching.launch(sweep, summary.displays(time.time()))


def states(sweep) -> list[str]:
    """The states of the runs that MLflow has."""
    client = MlflowClient(sweep.config.tracking.uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return [run.info.status for run in runs]


def closing(sweep, result, capsys) -> str:
    """The closing lines."""
    capsys.readouterr()
    summary.show(sweep, result)
    return "".join(capsys.readouterr())


def test_a_sweep_ends_with_its_whole_folder_on_the_store(store, tmp_path, monkeypatch, capsys):
    trials(monkeypatch)
    sweep, result = launched(store)
    assert result.exit_code == 0
    assert result.folder == tmp_path / "results" / "toy"
    assert f"the whole folder is on {store.uri}/toy" in closing(sweep, result, capsys)
    assert store.document("toy/manifest.json")["has_left"]
    assert [path.name for path in result.folder.iterdir() if path.name.startswith(".")] == []
    shutil.rmtree(tmp_path / "results")
    fetched = fetch(f"{store.uri}/toy", tmp_path / "elsewhere", print)
    assert saved_sweep.load(SweepFolder(fetched))[0].config.storage == store.uri
    _, again = launching.resume(fetched, summary.displays(time.time()))
    assert again.exit_code == 0
    assert again.as_json()["best"]["trial_key"] == "k1"


def test_what_the_store_lacks_at_the_end_is_told_and_sent_by_resume(store, monkeypatch, capsys):
    monkeypatch.setattr(launching, "DRAIN_SECONDS", 0.6)

    def outage(_):
        mirrors.until(lambda: store.document("toy/manifest.json")["files"])
        store.stop()

    trials(monkeypatch, outage)
    sweep, result = launched(store)
    assert result.exit_code == 1
    told = closing(sweep, result, capsys)
    assert f"{store.uri}/toy lacks " in told
    assert f"send the rest with:\n  {summary.command('qsweep')} resume {result.folder}\n" in told
    store.start()
    monkeypatch.setattr(launching, "DRAIN_SECONDS", 60.0)
    sweep, result = launching.resume(result.folder, summary.displays(time.time()))
    assert result.exit_code == 0
    assert f"the whole folder is on {store.uri}/toy" in closing(sweep, result, capsys)


def test_a_driver_that_is_replaced_ends_in_order_and_leaves_mlflow_alone(store, monkeypatch, capsys):
    def replaced(running):
        running.mirror._manifest._has_ended.set()  # a renewal could come between the next two lines
        mirrors.until(lambda: store.document("toy/manifest.json")["files"])
        following_driver = {**store.document("toy/manifest.json"), "driver": "other", "machine": "m", "process": 7}
        store.write("toy/manifest.json", json.dumps(following_driver).encode())
        # Something to send: by then the mirror may have had all, and look at the store no more.
        running.journal.add(DriverLives(time=1.5))
        mirrors.until(lambda: running.stop.reason == "failed")

    trials(monkeypatch, replaced)
    sweep, result = launched(store)
    assert result.exit_code == 1
    told = closing(sweep, result, capsys)
    assert f"error: {store.uri}/toy: the driver on m (process 7) has taken this sweep over" in told
    assert "go on with:" not in told
    assert "lacks" not in told
    assert store.document("toy/manifest.json")["driver"] == "other"
    assert set(states(sweep)) == {"RUNNING"}, "they are the other driver's"


def test_a_job_that_is_submitted_again_after_its_folder_was_lost_starts_no_second_sweep(store, tmp_path, monkeypatch):
    monkeypatch.setenv("QSWEEP_SWEEP_ID", "mine-1")
    trials(monkeypatch)
    sweep, result = launched(store)
    assert (result.sweep_id, result.exit_code) == ("mine-1", 0)
    shutil.rmtree(tmp_path / "results")
    with pytest.raises(SweepError, match=rf"{store.uri}/toy: holds the sweep mine-1 .* qsweep resume {store.uri}/toy$"):
        launched(store)
    for name in store.names("toy"):
        store.delete(name)
    with pytest.raises(SweepError, match=r"mine-1: MLflow .* has a sweep of this id already"):
        launched(store)
    assert store.names() == []
    assert len(states(sweep)) == 2, "the sweep and its trial"
