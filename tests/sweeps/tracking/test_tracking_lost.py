"""A tracking store that has lost what it acknowledged, or whose experiment people renamed or deleted: the event log has
it all, so it is sent again, into the same runs where they are still there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from sweep_events import begun, ended, hosts, parked, started
from tracked_sweeps import PARAMS, SWEEP, everything, over, run_of, runs, sweep_events, with_digest

from sweeps.config.model import SweepConfig, Tracking
from sweeps.record.events import TrialState
from sweeps.record.folder import EventLog, SweepFolder, noted_by
from sweeps.tracking import writer as writing
from sweeps.tracking.sink import MlflowSink
from sweeps.tracking.writer import Writer
from trainables.specs import DataSpec, ModelSpec

SENT_AGAIN = "all events are sent again"


class Sweep:
    """A sweep's folder, and what drivers deliver of it, one after the other, to one database."""

    def __init__(self, folder: Path, database: Path, clean: Path) -> None:
        self.database = database
        self._clean = clean
        self.reset()
        self.folder = SweepFolder(folder / "results" / "demo")
        self.folder.path.mkdir(parents=True)
        self.folder.config.write_text("{}")
        self._config = SweepConfig(
            name="demo",
            trainable="toy",
            model=ModelSpec(source="tiny/model"),
            data=DataSpec(train="train.jsonl", text="{text}"),
            tracking=Tracking(uri=f"sqlite:///{database}", experiment="family"),
        )
        self.events = with_digest(sweep_events(self.folder), self.folder)
        self._logged = 0

    def reset(self) -> None:
        """The database is new and empty."""
        shutil.copy(self._clean, self.database)

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.database}")

    def drive(self, until: int | None = None, killed: bool = False) -> list[str]:
        """A driver logs its events up to number `until` and delivers them; what it says.

        Killed, it has had no time to tell the store how far it came.
        """
        log = EventLog(self.folder.events)
        for event in self.events[self._logged : until]:
            log.append(event)
        log.close()
        self._logged = len(self.events[:until])
        said: list[str] = []
        sink = MlflowSink(self._config, SWEEP, self.folder, said.append)
        writer = Writer(self.folder, sink, said.append, self._config.tracking.uri)
        if killed:
            writer._attach()
            writer._send()
            return said
        writer.start()
        assert writer.drain(60.0) == 0
        return said


@pytest.fixture
def sweep(tmp_path, empty_database, monkeypatch) -> Sweep:
    monkeypatch.setattr(writing, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(writing, "PATIENCE_SECONDS", 600.0)  # a busy machine is no news
    return Sweep(tmp_path, tmp_path / "mlflow.db", empty_database)


@pytest.fixture
def whole(tmp_path, empty_database) -> dict:
    """What MLflow holds of the sweep when nothing went wrong."""
    undisturbed = Sweep(tmp_path / "undisturbed", tmp_path / "undisturbed.db", empty_database)
    undisturbed.drive()
    return by_trial(undisturbed.client)


def by_trial(client: MlflowClient) -> dict:
    """All that MLflow knows of the active runs, by trial key, but for ids; the first event has no time."""
    active = {run.info.run_id for run in runs(client) if run.info.lifecycle_stage == "active"}
    found = {}
    for run_id, (status, start, end, tags, params, metrics, files, _) in everything(client).items():
        if run_id in active:
            key = tags.get("sweep.trial_key")
            assert key not in found, "doubled"
            points = {name: [(p.step, p.value, p.timestamp) for p in points] for name, points in metrics.items()}
            shown = {name: tags.get(name) for name in ("sweep.state", "sweep.number", "mlflow.note.content")}
            found[key] = (status, start if key else None, end, shown, params, points, files)
    return found


def test_a_driver_that_goes_on_sends_nothing_twice(sweep, whole):
    assert sweep.drive(6) == []
    marked = noted_by(sweep.folder)
    assert marked["marked_bytes"] == marked["acknowledged_bytes"] > 0
    assert sweep.drive() == []
    assert by_trial(sweep.client) == whole
    before = everything(sweep.client)
    assert sweep.drive() == []
    assert everything(sweep.client) == before


@pytest.mark.parametrize("until", [4, 10])
def test_a_database_that_is_lost_gets_everything_again(sweep, whole, until):
    sweep.drive(until)
    sweep.reset()
    (line,) = sweep.drive()
    assert line == f"tracking: MLflow no longer has the sweep's run: {SENT_AGAIN}"
    assert by_trial(sweep.client) == whole
    assert sweep.drive() == []


@pytest.mark.parametrize("saved", [3, 8])
def test_a_database_from_a_backup_gets_everything_again(sweep, whole, saved):
    sweep.drive(saved)
    backup = shutil.copy(sweep.database, sweep.database.with_name("backup.db"))
    sweep.drive(9)
    shutil.copy(backup, sweep.database)
    (line,) = sweep.drive()
    assert line.startswith("tracking: MLflow no longer has ") and line.endswith(SENT_AGAIN)
    assert by_trial(sweep.client) == whole


def test_what_came_behind_the_last_mark_is_sent_again(sweep, whole):
    sweep.drive(3)
    backup = shutil.copy(sweep.database, sweep.database.with_name("backup.db"))
    sweep.drive(5, killed=True)
    shutil.copy(backup, sweep.database)
    assert sweep.drive() == []
    assert by_trial(sweep.client) == whole


@pytest.mark.parametrize("saved", range(1, 8))
def test_what_a_backup_lacks_that_came_before_the_first_mark_is_sent_again(sweep, whole, saved):
    sweep.drive(saved, killed=True)
    backup = shutil.copy(sweep.database, sweep.database.with_name("backup.db"))
    sweep.drive(8, killed=True)
    shutil.copy(backup, sweep.database)
    sweep.drive()
    assert by_trial(sweep.client) == whole


def test_a_database_that_is_lost_while_the_driver_runs_gets_everything_again(sweep, whole, monkeypatch):
    """Between two events of one driver."""
    send = MlflowSink.apply

    def apply(sink, event, record):
        if event is not None and event == sweep.events[6] and not lost:
            lost.append(sweep.reset())
            sink.forget()
            raise ConnectionError("the server has gone")
        send(sink, event, record)

    lost: list[None] = []
    monkeypatch.setattr(MlflowSink, "apply", apply)
    said = sweep.drive()
    assert [line for line in said if line.endswith(SENT_AGAIN)]
    assert by_trial(sweep.client) == whole


def test_trials_are_found_under_the_sweeps_new_run_when_its_old_one_is_gone_for_good(sweep, whole):
    sweep.drive()
    old = run_of(sweep.client, None).info.run_id
    sweep.client.delete_run(old)
    sweep.client._tracking_client.store._hard_delete_run(old)  # what `mlflow gc` does
    assert sweep.drive() == [f"tracking: MLflow no longer has the sweep's run: {SENT_AGAIN}"]
    assert by_trial(sweep.client) == whole
    parent = run_of(sweep.client, None).info.run_id
    assert {run_of(sweep.client, key).data.tags["mlflow.parentRunId"] for key in ("aaaa", "bbbb")} == {parent}


def test_trials_that_went_on_after_the_last_mark_are_not_lost(sweep):
    """A budget of time had ended them; the driver that went on with them has died."""
    ends = [ended(key, TrialState.STOPPED, by_person_or_budget=True, may_go_on=True) for key in ("aaaa", "bbbb")]
    began = [begun(200.0), hosts(201.0), started("aaaa", 0, 202.0, **PARAMS), parked("bbbb", 3)]
    sweep.events = [*sweep.events[:6], *ends, over("budget"), *began]
    sweep.drive(9)
    sweep.drive(killed=True)
    assert run_of(sweep.client, "aaaa").data.tags["sweep.state"] == "RUNNING"
    assert run_of(sweep.client, "bbbb").data.tags["sweep.state"] == "PARKED"
    assert sweep.drive() == []


def damages() -> dict[str, Callable[[MlflowClient, str], None]]:
    """What people do to the run of a trial that has ended."""
    return {
        "metric": lambda client, run: client.log_metric(run, "eval_loss", 0.1, step=99),
        "state": lambda client, run: client.set_tag(run, "sweep.state", "RUNNING"),
        "adapter": lambda client, run: shutil.rmtree(
            Path(client.get_run(run).info.artifact_uri.removeprefix("file://")) / "adapter"
        ),
    }


@pytest.mark.parametrize("damage", damages())
def test_a_run_that_is_not_what_it_was_is_told(sweep, damage):
    sweep.drive()
    damages()[damage](sweep.client, run_of(sweep.client, "aaaa").info.run_id)
    (line,) = sweep.drive()
    assert line.endswith(SENT_AGAIN)
    run = run_of(sweep.client, "aaaa")
    assert run.data.tags["sweep.state"] == "COMPLETED"
    assert sweep.client.list_artifacts(run.info.run_id, "adapter")


def test_an_experiment_that_was_renamed_is_used_under_its_name(sweep, whole):
    sweep.drive(6)
    (experiment,) = [found for found in sweep.client.search_experiments() if found.name == "family"]
    sweep.client.rename_experiment(experiment.experiment_id, "our runs")
    assert sweep.drive() == ["tracking: the experiment family is called our runs in MLflow now"]
    assert {found.name for found in sweep.client.search_experiments()} == {"Default", "our runs"}
    assert by_trial(sweep.client) == whole


def test_an_experiment_that_was_deleted_is_restored_with_its_runs(sweep, whole):
    sweep.drive(6)
    before = {run.info.run_id for run in runs(sweep.client)}
    experiment = run_of(sweep.client, None).info.experiment_id
    sweep.client.rename_experiment(experiment, "old")
    sweep.client.delete_experiment(experiment)
    renamed, restored = sweep.drive()
    assert "is called old in MLflow now" in renamed
    assert restored == "tracking: the experiment old was deleted in MLflow: it is restored, with its runs"
    assert by_trial(sweep.client) == whole
    assert before <= {run.info.run_id for run in runs(sweep.client)}


def test_runs_that_were_deleted_are_restored(sweep, whole):
    sweep.drive(9)
    for key in (None, "aaaa", "bbbb"):
        sweep.client.delete_run(run_of(sweep.client, key).info.run_id)
    said = sweep.drive()
    assert f"tracking: the run {SWEEP} was deleted in MLflow: it is restored" in said
    assert by_trial(sweep.client) == whole


def test_a_new_database_that_counts_from_one_again_is_not_taken_for_the_old_one(sweep, whole):
    sweep.drive(6)
    sweep.reset()
    theirs = sweep.client.create_experiment("theirs")
    assert theirs == noted_by(sweep.folder)["experiment_id"]
    sweep.drive()
    assert sweep.client.search_runs([theirs], run_view_type=ViewType.ALL) == []
    assert by_trial(sweep.client) == whole


def test_folders_of_earlier_versions_go_on(sweep, whole):
    sweep.drive(6)
    noted = noted_by(sweep.folder)
    for key in ("marked_bytes", "experiment_id"):
        del noted[key]
    sweep.folder.tracking.write_text(json.dumps(noted))
    sweep.client.delete_tag(run_of(sweep.client, None).info.run_id, "sweep.acknowledged")
    assert sweep.drive() == []
    assert by_trial(sweep.client) == whole
