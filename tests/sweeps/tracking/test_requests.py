"""How much MLflow is asked: of many trials, each costs the driver and the server as much as the first."""

from __future__ import annotations

from sweep_events import started
from tracked_sweeps import PARAMS, SWEEP, deliver, runs, sweep_events

from sweeps.record.sweep_record import first_wins
from sweeps.tracking.client import Runs
from sweeps.tracking.sink import MlflowSink


def test_a_trial_that_is_new_for_certain_is_not_searched_for(sink, config, folder, client, monkeypatch):
    searched: list[str] = []
    find = Runs.find

    def counted(self, identity) -> str | None:
        searched.append(identity.get("sweep.trial_key", "the sweep"))
        return find(self, identity)

    monkeypatch.setattr(Runs, "find", counted)
    events = sweep_events(folder)
    deliver(sink, events[:4])
    assert searched == ["the sweep"]
    # Another driver knows from the log and from MLflow which trials may have runs.
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
    assert searched == ["the sweep", "cccc"]
    assert len(runs(client)) == 4
