"""How much MLflow is asked: of many trials, each costs the driver and the server as much as the first."""

from __future__ import annotations

from sweep_events import begun, ended, reported, started
from tracked_sweeps import PARAMS, SWEEP, deliver, keep_adapter, run_of, runs, sweep_events

from sweeps.record.events import TrialParked, TrialState
from sweeps.record.sweep_record import first_wins
from sweeps.tracking.client import Runs
from sweeps.tracking.sink import MlflowSink


def test_a_trial_that_is_new_for_certain_is_not_searched_for(sink, config, folder, client, monkeypatch):
    searched: list[str] = []
    of_sweep = Runs.of_sweep

    def counted(self, *used):
        searched.append("all runs")
        return of_sweep(self, *used)

    monkeypatch.setattr(Runs, "of_sweep", counted)
    events = sweep_events(folder)
    deliver(sink, events[:4])
    assert searched == ["all runs"]
    # Another driver knows from MLflow which trials have runs.
    known = first_wins(events[:4])
    *_, (_, record) = known
    later = MlflowSink(config, SWEEP, folder)
    later.attach(record)
    searched.clear()
    for event, after in first_wins(events[4:6], record):
        later.apply(event, after)
    assert searched == []
    # After an error nothing is certain.
    later.forget()
    event, after = next(iter(first_wins([started("cccc", 2, **PARAMS)], record)))
    later.apply(event, after)
    assert searched == ["all runs"]
    assert len(runs(client)) == 4


def test_a_run_is_made_to_run_again_only_where_it_may_have_been_ended(sink, config, folder, client, monkeypatch):
    told: list[str] = []
    running = Runs.running

    def counted(self, run_id: str) -> None:
        told.append(client.get_run(run_id).data.tags.get("sweep.trial_key", "the sweep"))
        running(self, run_id)

    monkeypatch.setattr(Runs, "running", counted)
    keep_adapter(folder, "aaaa", 3)
    parked = TrialParked(time=5.0, trial_key="aaaa", step=3)
    events: list = [
        begun(),
        started("aaaa", **PARAMS),
        reported("aaaa", 3, 0.7),
        parked,
        started("aaaa", **PARAMS),
        parked,
    ]
    deliver(sink, events)
    assert told == ["the sweep"]
    paused = ended("aaaa", TrialState.PAUSED, "interrupted")
    deliver(sink, [*events, paused])
    told.clear()
    # Another driver, of which the first event may be that the trial is parked.
    later = MlflowSink(config, SWEEP, folder)
    *_, (_, record) = first_wins([*events, paused])
    later.apply(parked, record)
    later.apply(started("aaaa", **PARAMS), record)
    assert told == ["aaaa"]
    assert run_of(client, "aaaa").info.status == "RUNNING"
    later.forget()
    later.apply(started("aaaa", **PARAMS), record)
    assert told == ["aaaa", "aaaa"]
