"""Which run is a trial's: found once, and one of two where a create whose answer was lost took effect late."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient
from sweep_events import begun, started
from tracked_sweeps import PARAMS, SWEEP, deliver, run_of, runs, sweep_events

from sweeps.record.events import Event
from sweeps.record.sweep_record import first_wins
from sweeps.tracking.client import Runs
from sweeps.tracking.sink import MlflowSink


def double(client: MlflowClient, of) -> str:
    """What a create leaves that took effect after its answer was given up."""
    tags = {key: value for key, value in of.data.tags.items() if key.startswith("sweep.")}
    return client.create_run(of.info.experiment_id, start_time=of.info.start_time, tags=tags).info.run_id


def active(client: MlflowClient) -> set[str]:
    ids = [found.experiment_id for found in client.search_experiments()]
    return {run.info.run_id for run in client.search_runs(ids)}


def test_runs_whose_creation_came_late_are_gone_when_the_sweep_has_ended(sink, folder, client):
    *before, (last, record) = first_wins(sweep_events(folder))
    for event, known in before:
        sink.apply(event, known)
    used = active(client)
    doubles = {double(client, run_of(client, key)) for key in (None, "aaaa")}
    assert active(client) == used | doubles
    sink.apply(last, record)
    assert active(client) == used


def test_a_driver_that_takes_over_goes_on_in_the_runs_that_were_used(sink, config, folder, client):
    events = list(first_wins(sweep_events(folder)))
    for event, known in events[:-1]:
        sink.apply(event, known)
    used = active(client)
    double(client, run_of(client, "aaaa"))
    again = MlflowSink(config, SWEEP, folder)
    again.attach(events[-2][1])
    again.apply(*events[-1])
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
    *_, (_, record) = first_wins(events)
    MlflowSink(config, SWEEP, folder).attach(record)
    assert active(client) == used


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
