"""What is told of a sweep before MLflow is imported agrees with what MLflow tells; and a refusal needs no more."""

from __future__ import annotations

import json

import pytest
import python_imports
from sweep_events import begun, reported, started
from tracked_sweeps import PARAMS, SWEEP, deliver

from sweeps.errors import SweepError
from sweeps.record.events import Event, to_line
from sweeps.tracking import first_look, stores
from sweeps.tracking.first_look import FirstLook
from sweeps.tracking.lookup import Lookup
from sweeps.tracking.registry import Registry


@pytest.fixture
def tracked(sink, folder, config):
    """A sweep of two trials in MLflow, whose trainable can be promoted."""
    raw = config.model_copy(update={"trainable": "qlora"}).model_dump(mode="json")
    folder.config.write_text(json.dumps({"sweep_id": SWEEP, "config": raw}))
    deliver(sink, [begun(), started("aaaa", 0, **PARAMS), started("bbbb", 1, **PARAMS)])
    return folder


@pytest.mark.parametrize("name", [SWEEP, "demo"])
def test_it_is_what_mlflow_tells(tracked, uri, client, name):
    told = Lookup(uri).sweep(stores.Place(uri, name))
    seen = first_look.look(uri, name, None)
    assert seen == FirstLook(told.sweep_id, told.config, {each.trial_key: each.label for each in told.trials})
    assert seen.trials == {"aaaa": "t00", "bbbb": "t01"}
    assert first_look.look(uri, SWEEP, tracked.path) == seen
    for trial in told.trials:  # as a driver leaves the run that is killed right after it has made it
        client.delete_tag(trial.run_id, "sweep.number")
    assert first_look.look(uri, SWEEP, None).trials == {"aaaa": "t00", "bbbb": "t00"}


def test_what_it_cannot_know_is_left_to_mlflow(tracked, uri, tmp_path):
    (tmp_path / "torn.db").write_text("no database at all, and long enough to be looked at as one")
    assert first_look.look(f"sqlite:///{tmp_path}/torn.db", SWEEP, None) == FirstLook()
    assert first_look.look("http://127.0.0.1:1", SWEEP, None) == FirstLook()
    assert first_look.look(uri, "another", None) == FirstLook()
    tracked.config.write_text('{"config": {"of": "another version"}}')
    assert first_look.look(uri, SWEEP, tracked.path).config is None


def test_the_log_tells_the_trials_where_the_store_is_a_server(tracked):
    events: list[Event] = [
        begun(),
        started("aaaa", 0, **PARAMS),
        reported("aaaa", 3, 0.7),
        started("bbbb", 1, **PARAMS),
    ]
    lines = [to_line(event) + "\n" for event in events]
    tracked.events.write_text("".join(lines) + lines[-1].replace("bbbb", "torn").strip())
    seen = first_look.look("http://127.0.0.1:1", SWEEP, tracked.path)
    assert seen.trials == {"aaaa": "t00", "bbbb": "t01"}
    assert seen.config is not None
    tracked.events.unlink()
    assert first_look.look("http://127.0.0.1:1", SWEEP, tracked.path).trials is None


def test_a_model_that_is_not_registered_is_told_with_those_that_are(uri):
    registry = Registry(uri)
    registry.make_model("tickets")
    first_look.refuse_unknown_model("tickets", uri)
    with pytest.raises(SweepError, match=r"no registered model 'ticket' \(there are: tickets\)"):
        first_look.refuse_unknown_model("ticket", uri)
    first_look.refuse_unknown_model("ticket", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["promote", "results/demo"], "error: --model: name the registered model, or set promotion.model"),
        (["promote", "demo"], "error: --model: name the registered model, or set promotion.model"),
        (["promote", "results/demo", "--model", "m", "--trial", "t09"], "no trial 't09' in demo-2026"),
        (["promote", SWEEP, "--model", "m", "--trial", "cccc"], "(there are: t00 aaaa, t01 bbbb)"),
        (["rollback", "--model", "m"], "error: --model: no registered model 'm' (there are: none)"),
        (["models", "--model", "m"], "error: --model: no registered model 'm' (there are: none)"),
    ],
)
@pytest.mark.usefixtures("tracked")
def test_a_refusal_imports_nothing_heavy(tmp_path, words, line):
    assert line in python_imports.refusal(tmp_path, *words)
