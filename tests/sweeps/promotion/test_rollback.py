"""Going back to an earlier version, and the history of a model."""

from __future__ import annotations

import os

import pytest
from promotion_worlds import killed_at
from promotions import MODEL, run

from sweeps.errors import SweepError
from sweeps.promotion.rollback import as_json, models, rollback, version_before
from sweeps.record import fault_points
from sweeps.tracking.registry import Entry, Model


def test_rollback_goes_back_and_says_what_changed(champion):
    run(champion.sweep("second"))
    done = rollback(MODEL, None, "champion", champion.uri, clock=lambda: 2000.0)
    assert (done.version, done.before) == ("1", "2")
    assert champion.aliases() == {"challenger": "2", "champion": "1", "previous": "2"}
    history = as_json(models(MODEL, champion.uri)[0][0])["history"]
    assert [(each["action"], each["version"], each["previous"]) for each in history] == [
        ("promote", "1", None), ("promote", "2", "1"), ("rollback", "1", "2"),
    ]  # fmt: skip
    assert all(each["completed"] for each in history)
    assert rollback(MODEL, "2", "champion", champion.uri).before == "1"


@pytest.mark.parametrize(
    ("moves", "back"),
    [
        ("p1 p2 p3", "2 1 None"),
        ("p1 p2 p3 r2 p4", "2 1 None"),
        ("p1 p2 p3 r2 r3", "2 1 None"),
        ("p1 p2 r1 p3 r2 p1", "2 1 None"),
        ("p2 p1 r2 p1", "2 None"),
        ("h7 p1 p2", "1 7 None"),
        ("p1 p2 h1", "None"),
        ("p1 p2 h5", "1 None"),
    ],
)
def test_rolling_back_again_and_again_goes_further_back_and_never_forth(moves, back):
    """p: promote, r: roll back, h: moved by hand, which the history does not hold."""
    now, history = None, []
    for what, to in moves.split():
        if what != "h":
            history.append(Entry(1.0, {"p": "promote", "r": "rollback"}[what], "champion", to, now, ""))
        now = to
    found = []
    while now is not None:
        aliases = {"champion": now, "previous": "3"}
        target = version_before(Model(MODEL, aliases, tuple(history), 0), "champion")
        found.append(target)
        if target is not None:
            history.append(Entry(1.0, "rollback", "champion", target, now, ""))
        now = target
    assert " ".join(map(str, found)) == back


@pytest.mark.parametrize("point", ["history", "previous"])
def test_a_rollback_that_is_killed_is_ended_by_doing_it_again(champion, point):
    run(champion.sweep("second"))
    child = os.fork()
    if child == 0:
        os.environ[fault_points.VARIABLE] = f"rollback.after_{point}"
        try:
            rollback(MODEL, None, "champion", champion.uri)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137
    assert champion.aliases()["champion"] == "2"
    assert rollback(MODEL, None, "champion", champion.uri).version == "1"
    assert champion.aliases() == {"challenger": "2", "champion": "1", "previous": "2"}
    assert len(models(MODEL, champion.uri)[0][0].history) == 3


@pytest.mark.parametrize("alias", ["latest", "v1", "bad name", "challenger", "V1", "Latest", "prod.eu"])
def test_a_rollback_of_a_wrong_alias_writes_nothing(champion, alias):
    run(champion.sweep("second"))
    with pytest.raises(SweepError, match="alias"):
        rollback(MODEL, "1", alias, champion.uri)
    assert len(models(MODEL, champion.uri)[0][0].history) == 2


def test_an_entry_of_the_history_that_nobody_can_read_is_not_written_over(champion):
    champion.client.set_registered_model_tag(MODEL, "promotion.history.0001", "{")
    run(champion.sweep("second"))
    rollback(MODEL, None, "champion", champion.uri)
    assert [entry.action for entry in models(MODEL, champion.uri)[0][0].history] == ["promote", "rollback"]


def test_after_a_rollback_the_same_version_is_promoted_again(champion):
    run(champion.sweep("second"))
    rollback(MODEL, None, "champion", champion.uri)
    assert run(champion.sweep("second")).registered.version == "2"
    assert champion.versions() == ["1", "2"]
    assert champion.aliases() == {"challenger": "2", "champion": "2", "previous": "1"}


@pytest.mark.parametrize(
    ("to", "match"),
    [(None, "no version was the champion before"), ("7", "no version 7"), ("1", "version 1 is the champion already")],
)
def test_a_rollback_to_nowhere_is_told(world, to, match):
    run(world.sweep("second"))
    with pytest.raises(SweepError, match=match):
        rollback(MODEL, to, "champion", world.uri)
    assert world.aliases() == {"challenger": "1", "champion": "1"}


def test_a_version_that_was_never_whole_is_not_gone_back_to(champion):
    killed_at("version", champion.sweep("second"))
    with pytest.raises(SweepError, match="version 2 of answers was never promoted"):
        rollback(MODEL, "2", "champion", champion.uri)


def test_models_of_others_are_not_listed(world):
    world.client.create_registered_model("theirs")
    assert models(None, world.uri) == []
    run(world.sweep("second"))
    assert [model.name for model, _ in models(None, world.uri)] == [MODEL]
    for name in ("theirs", "nobody"):
        with pytest.raises(SweepError, match="--model: "):
            models(name, world.uri)
