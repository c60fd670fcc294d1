"""Going back to an earlier version, and the history of a model."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from promotion_worlds import killed_at
from promotions import MODEL, run

from sweeps.cli.models import show_models
from sweeps.errors import SweepError
from sweeps.promotion.versions import as_json, models, rollback, taken_back, version_before
from sweeps.tracking.registry import Entry, Model


def test_rollback_goes_back_and_says_what_changed(replaced):
    done = rollback(MODEL, None, "champion", replaced.uri, clock=lambda: 2000.0)
    assert (done.version, done.previous) == ("1", "2")
    assert replaced.aliases() == {"challenger": "2", "champion": "1", "previous": "2"}
    history = as_json(models(MODEL, replaced.uri)[0][0])["history"]
    assert [(each["action"], each["version"], each["previous"]) for each in history] == [
        ("promote", "1", None), ("promote", "2", "1"), ("rollback", "1", "2"),
    ]  # fmt: skip
    replaced.client.set_registered_model_alias(MODEL, "champion", "2")  # by hand
    assert all(each["completed"] for each in as_json(models(MODEL, replaced.uri)[0][0])["history"])
    assert rollback(MODEL, "1", "champion", replaced.uri).previous == "2"
    ((again, _),) = models(MODEL, replaced.uri)
    assert len(again.history) == 4 and all(entry.done for entry in again.history)
    assert rollback(MODEL, "2", "champion", replaced.uri).previous == "1"


def entries(moves: str) -> list[Entry]:
    """The history after moves. p: promote, r: roll back, P and R the same written down as done; h: moved by hand."""
    now: str | None = None
    history: list[Entry] = []
    for move in moves.split():
        what, to = move[0], move[1:]
        if what != "h":
            action = {"p": "promote", "r": "rollback"}[what.lower()]
            history.append(Entry(1.0, action, "champion", to, now, "", done=what.isupper()))
        now = to
    return history


@pytest.mark.parametrize(
    ("moves", "back"),
    [
        ("p1 p2 p3", "2 1 None"),
        ("p1 p2 p3 r2 r3", "2 1 None"),
        ("p1 p2 r1 p3 r2 p1", "2 1 None"),
        ("p2 p1 r2 p1", "2 None"),
        ("h7 p1 p2", "1 7 None"),
        ("p1 p2 h1", "None"),
        ("p1 p2 h5", "1 None"),
        ("P1 P2 h5", "2 1 None"),
        ("P1 P2 h1 P2 h5", "2 1 None"),
        ("P1 P2 R1 h5", "1 None"),
    ],
)
def test_rolling_back_again_and_again_goes_further_back_and_never_forth(moves, back):
    now, history, found = moves[-1], entries(moves), []
    while now is not None:
        aliases = {"champion": now, "previous": "3"}
        target = version_before(Model(MODEL, aliases, tuple(history), 0), "champion")
        found.append(target)
        if target is not None:
            history.append(Entry(1.0, "rollback", "champion", target, now, ""))
        now = target
    assert " ".join(map(str, found)) == back


@pytest.mark.parametrize(
    ("moves", "is_back"),
    [
        ("P1 P2", False),
        ("P1 P2 R1", True),
        ("P1 P2 R1 R2", False),
        ("P1 P2 R1 P2", False),
        ("P1 P2 R1 P3", True),
        ("P1 P2 P3 R1", False),
        ("P1 P2 R1 h2 P3", False),
    ],
)
def test_a_rollback_holds_until_the_alias_is_at_the_version_again(moves, is_back):
    model = Model(MODEL, {}, tuple(entries(moves)), 0)
    assert (taken_back(model, "champion", "2") is not None) is is_back
    assert taken_back(model, "staging", "2") is None


@pytest.mark.parametrize("point", ["history", "previous"])
def test_a_rollback_that_is_killed_is_ended_by_doing_it_again(replaced, point):
    killed_at(f"rollback.after_{point}", lambda: rollback(MODEL, None, "champion", replaced.uri))
    assert replaced.aliases()["champion"] == "2"
    assert rollback(MODEL, None, "champion", replaced.uri).version == "1"
    assert replaced.aliases() == {"challenger": "2", "champion": "1", "previous": "2"}
    assert len(models(MODEL, replaced.uri)[0][0].history) == 3


def test_an_entry_of_the_history_that_nobody_can_read_is_not_written_over(champion, monkeypatch):
    """Nor is it an error when MLflow fails at the note that the alias has moved: it has."""
    champion.client.set_registered_model_tag(MODEL, "promotion.history.0001", "{")
    run(champion.sweep("second"))
    write = MlflowClient.set_registered_model_tag

    def failing(client: MlflowClient, name: str, key: str, value: str) -> None:
        if key.startswith("promotion.done."):
            raise MlflowException("API request to http://x failed")
        write(client, name, key, value)

    monkeypatch.setattr(MlflowClient, "set_registered_model_tag", failing)
    rollback(MODEL, None, "champion", champion.uri)
    assert [(entry.action, entry.done) for entry in models(MODEL, champion.uri)[0][0].history] == [
        ("promote", True), ("rollback", False),
    ]  # fmt: skip


def test_after_a_rollback_the_same_version_is_promoted_again_only_by_force(replaced):
    """What is wrong with it the rows do not show: a promotion that runs every night would bring it back."""
    rollback(MODEL, None, "champion", replaced.uri, clock=lambda: 2000.0)
    outcome = run(replaced.sweep("second"))
    assert (outcome.exit_code, outcome.promoted, outcome.verdict.passed) == (1, False, True)
    assert outcome.reasons == (
        "version 2 was rolled back at 1970-01-01 00:33:20 UTC: qsweep rollback --model answers --to 2 makes it the "
        "champion again, and so does --force",
    )
    assert replaced.aliases()["champion"] == "1"
    assert run(replaced.sweep("second"), force=True).version == "2"
    assert replaced.tags("2")["promotion.forced"] == "version 2 was rolled back at 1970-01-01 00:33:20 UTC"
    assert replaced.versions() == ["1", "2"]
    assert replaced.aliases() == {"challenger": "2", "champion": "2", "previous": "1"}


def test_a_rollback_to_nowhere_or_of_a_wrong_alias_is_told_and_writes_nothing(strong):
    for to, alias, match in (
        (None, "champion", "no version was the champion before: .*; name another with --to VERSION: qsweep models --m"),
        ("7", "champion", "no version 7: .*; qsweep models --model answers lists them"),
        ("01", "champion", "version 1 is the champion already"),
        *(("1", alias, "alias") for alias in ("latest", "bad name", "challenger")),
    ):
        with pytest.raises(SweepError, match=match):
            rollback(MODEL, to, alias, strong.uri)
    assert strong.aliases() == {"challenger": "1", "champion": "1"}
    assert len(models(MODEL, strong.uri)[0][0].history) == 1


def test_a_version_that_was_never_whole_is_not_gone_back_to(champion):
    killed_at("promote.after_version", lambda: run(champion.sweep("second")))
    with pytest.raises(SweepError, match="version 2 of answers was never promoted"):
        rollback(MODEL, "2", "champion", champion.uri)


def test_models_of_others_are_not_listed_and_one_of_which_no_alias_moved_has_no_head_of_a_history(world, capsys):
    world.client.create_registered_model("theirs")
    world.client.create_registered_model(MODEL, tags={"qsweep.model": "1"})
    assert [model.name for model, _ in models(None, world.uri)] == [MODEL]
    with pytest.raises(
        SweepError, match=r"^--model: 'theirs' is registered already and not by qsweep .*: name another model$"
    ):
        models("theirs", world.uri)
    with pytest.raises(SweepError, match=r"^no registered model 'nobody' \(there are: answers\)$"):
        models("nobody", world.uri)
    show_models(MODEL, world.uri)
    assert capsys.readouterr().out.splitlines()[-1] == "its history is empty: no alias move is written down"
