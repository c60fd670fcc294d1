"""Runs that MLflow has acknowledged and lost, or that people renamed or deleted: the event log has them all.

A driver finds the runs that are there under whatever name of their experiment. Where runs are gone, the driver says so,
and another one sends all events again when it is told to.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from sweep_events import begun, ended, hosts, parked, started
from tracked_sweeps import PARAMS, SWEEP, everything, over, run_of, runs, sweep_events, with_digest

from sweeps.errors import StorageError
from sweeps.record.events import TrialState
from sweeps.record.folder import EventLog, noted_by
from sweeps.record.sweep_record import SweepRecord
from sweeps.tracking import timeouts
from sweeps.tracking.sink import MlflowSink
from sweeps.tracking.writer import Writer, forget_acknowledged


class Sweep:
    """What drivers deliver of a sweep, one after the other, to one database."""

    def __init__(self, stored, clean: Path) -> None:
        self.folder, self.client, self._config, self._clean = stored.folder, stored.client, stored.config, clean
        self.database = Path(stored.uri.removeprefix("sqlite:///"))
        self.backup = self.database.with_name("backup.db")
        self.events = with_digest(sweep_events(self.folder), self.folder)
        self._logged = 0

    def reset(self) -> None:
        """The database is new and empty."""
        shutil.copy(self._clean, self.database)

    def drive(self, until: int | None = None, resend: bool = False, left: int = 0) -> list[str]:
        """A driver logs its events up to number `until`, and delivers all but the `left` last ones; what it says."""
        log = EventLog(self.folder.events)
        for event in self.events[self._logged : until]:
            log.append(event)
        log.close()
        self._logged = len(self.events[:until])
        said: list[str] = []
        sink = MlflowSink(self._config, SWEEP, self.folder, said.append)
        if resend:
            forget_acknowledged(self.folder, self._config.tracking.uri)
        writer = Writer(self.folder, sink, said.append, self._config.tracking.uri)
        writer.start()
        assert writer.drain(60.0) == left
        assert writer.are_runs_gone is (left > 0)
        return said

    def gone(self, what: str) -> list[str]:
        """What a driver says that does not find its runs."""
        again = f"qsweep resume {self.folder.path} --resend sends all events again"
        return [f"tracking: MLflow no longer has {what}: {again}"]

    def lose_database(self) -> None:
        self.reset()

    def put_backup_back(self) -> None:
        shutil.copy(self.backup, self.database)

    def collect_garbage(self) -> None:
        run = run_of(self.client, None).info.run_id
        self.client.delete_run(run)
        self.client._tracking_client.store._hard_delete_run(run)  # what `mlflow gc` does

    def delete(self, key: str | None) -> None:
        self.client.delete_run(run_of(self.client, key).info.run_id)

    def change_by_hand(self) -> None:
        run = run_of(self.client, "aaaa")
        self.client.set_tag(run.info.run_id, "sweep.state", "RUNNING")
        shutil.rmtree(Path(run.info.artifact_uri.removeprefix("file://")) / "adapter")


@pytest.fixture
def sweep(stored, empty_database, monkeypatch) -> Sweep:
    monkeypatch.setattr(timeouts, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(timeouts, "PATIENCE_SECONDS", 600.0)  # a busy machine is no news
    return Sweep(stored, empty_database)


@pytest.fixture(scope="module")
def expected(whole) -> dict:
    """What MLflow holds of the sweep when nothing went wrong."""
    return by_trial(whole.client)


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


def test_a_driver_that_goes_on_sends_nothing_twice(sweep, expected):
    assert sweep.drive(6) == []
    assert sweep.drive() == []
    assert by_trial(sweep.client) == expected
    before = everything(sweep.client)
    assert sweep.drive() == []
    assert everything(sweep.client) == before


@pytest.mark.parametrize(
    ("lose", "what"),
    [
        (Sweep.lose_database, "the sweep's run"),
        (Sweep.put_backup_back, "the run of t01"),
        (Sweep.collect_garbage, "the sweep's run"),
        (partial(Sweep.delete, key=None), "the sweep's run"),
        (partial(Sweep.delete, key="aaaa"), "the run of t00"),
    ],
)
def test_a_driver_whose_runs_are_gone_says_so_and_another_sends_all_again(sweep, expected, lose, what):
    sweep.drive(3)
    shutil.copy(sweep.database, sweep.backup)
    sweep.drive(6)
    lose(sweep)
    for _ in range(2):
        assert sweep.drive(9, left=9) == sweep.gone(what)
    assert sweep.drive(resend=True) == []
    assert by_trial(sweep.client) == expected
    parent = run_of(sweep.client, None).info.run_id
    assert {run_of(sweep.client, key).data.tags["mlflow.parentRunId"] for key in ("aaaa", "bbbb")} == {parent}
    before = everything(sweep.client)
    assert sweep.drive() == []
    assert everything(sweep.client) == before


def test_a_driver_whose_runs_go_while_it_sends_says_so_and_sends_no_more(sweep, expected, monkeypatch):
    send = MlflowSink.apply

    def apply(sink, event, record):
        if event == sweep.events[6] and not lost:
            lost.append(sweep.reset())
            raise ConnectionError("the server has gone")
        send(sink, event, record)

    lost: list[None] = []
    monkeypatch.setattr(MlflowSink, "apply", apply)
    assert sweep.drive(left=10)[1:] == sweep.gone("the sweep's run")
    assert sweep.drive(resend=True) == []
    assert by_trial(sweep.client) == expected


@pytest.mark.parametrize("damage", [Sweep.put_backup_back, Sweep.change_by_hand])
def test_what_is_sent_again_is_as_it_was_and_stands_once(sweep, damage):
    sweep.drive(6)
    shutil.copy(sweep.database, sweep.backup)
    sweep.drive()
    before = everything(sweep.client)
    damage(sweep)
    assert sweep.drive(resend=True) == []
    assert everything(sweep.client) == before


def test_a_sweep_of_several_drivers_is_sent_again_as_it_was(sweep):
    """A budget of time had ended its trials, and another driver went on with them."""
    ends = [ended(key, TrialState.STOPPED, by_person_or_budget=True, may_go_on=True) for key in ("aaaa", "bbbb")]
    began = [begun(200.0), hosts(201.0), started("aaaa", 0, 202.0, **PARAMS), parked("bbbb", 3)]
    sweep.events = [*sweep.events[:6], *ends, over("budget"), *began, started("cccc", 2, 203.0, **PARAMS)]
    sweep.drive(9)
    sweep.drive()

    def but_for_ends() -> dict:
        """An end that came before is passed once more."""
        return {
            run_id: (status, start, *rest) for run_id, (status, start, _, *rest) in everything(sweep.client).items()
        }

    before = but_for_ends()
    assert sweep.drive(resend=True) == []
    assert but_for_ends() == before


def test_the_runs_of_an_experiment_that_was_renamed_are_found(sweep, expected):
    sweep.drive(6)
    sweep.client.rename_experiment(run_of(sweep.client, None).info.experiment_id, "old")
    assert sweep.drive() == []
    assert by_trial(sweep.client) == expected
    assert {found.name for found in sweep.client.search_experiments()} == {"Default", "old"}


def test_an_experiment_that_was_deleted_takes_all_events_once_people_have_restored_it(sweep, expected):
    sweep.drive(6)
    experiment = run_of(sweep.client, None).info.experiment_id
    sweep.client.delete_experiment(experiment)
    sink = MlflowSink(sweep._config, SWEEP, sweep.folder)
    told = f"family is deleted in MLflow: mlflow experiments restore --experiment-id {experiment} brings it back"
    with pytest.raises(StorageError, match=told):
        sink.attach(SweepRecord())
    sweep.client.restore_experiment(experiment)
    assert sweep.drive() == []
    assert by_trial(sweep.client) == expected


def test_a_new_database_that_counts_from_one_again_is_not_taken_for_the_old_one(sweep, expected):
    sweep.drive(6)
    sweep.reset()
    theirs = sweep.client.create_experiment("theirs")
    assert theirs == noted_by(sweep.folder)["experiment_id"]
    sweep.drive(resend=True)
    assert sweep.client.search_runs([theirs], run_view_type=ViewType.ALL) == []
    assert by_trial(sweep.client) == expected
