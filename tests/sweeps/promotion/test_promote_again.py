"""A promotion that is given again, killed anywhere, or that runs beside another ends well."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import promotions
import pytest
from mlflow import MlflowClient
from promotion_worlds import killed_at
from promotions import MODEL, run

from sweeps.errors import Failed
from sweeps.promotion import registration, versions
from sweeps.promotion.registration import PromotionResult
from sweeps.promotion.verify import checks
from sweeps.promotion.versions import as_json, find, models
from sweeps.tracking.registry import Registry
from trainables.base import base_model
from trainables.scoring import adapter_scorer


def test_the_same_promotion_twice_gives_the_same_version_and_evaluates_nothing(replaced, monkeypatch):
    calls: list[str] = []
    for module, name in ((adapter_scorer, "padded_losses"), (base_model, "load")):
        monkeypatch.setattr(module, name, lambda *_, name=name: calls.append(name))
    before, tags = replaced.aliases(), replaced.tags("2")
    again = run(replaced.sweep("second"))
    assert (again.exit_code, again.already_champion, again.version) == (0, True, "2")
    assert again.as_json()["already_champion"] is True
    assert (replaced.aliases(), replaced.tags("2"), replaced.versions()) == (before, tags, ["1", "2"])
    assert len(models(MODEL, replaced.uri)[0][0].history) == 2
    assert run(replaced.sweep("second"), alias="staging").version == "2"
    assert run(replaced.sweep("first")).exit_code == 1
    assert calls == []


POINTS = ("model", "upload", "version", "description", "serving", "challenger", "history", "previous", "alias")


@pytest.mark.parametrize("point", POINTS)
def test_a_promotion_that_is_killed_anywhere_is_ended_by_doing_it_again(champion, monkeypatch, point):
    killed_at(f"promote.after_{point}", lambda: run(champion.sweep("second")))
    assert champion.aliases()["champion"] == ("2" if point == "alias" else "1")
    serve, times = promotions.InProcess.serve, [2000.0]

    def slow(*words):
        times.append(2600.0)
        return serve(*words)

    monkeypatch.setattr(promotions.InProcess, "serve", slow)
    outcome = run(champion.sweep("second"), clock=lambda: times[-1])
    assert outcome.exit_code == 0
    assert champion.aliases() == {"challenger": "2", "champion": "2", "previous": "1"}
    assert champion.versions() == ["1", "2"]
    assert champion.tags("2")["promotion.state"] == "complete"
    record, told = checks(find(MODEL, champion.uri))
    assert (record.champion, [check for check in told if check.holds is False]) == ("1", [])
    history = as_json(models(MODEL, champion.uri)[0][0])["history"]
    assert [(each["version"], each["completed"]) for each in history] == [("1", True), ("2", True)]
    # It is dated when the alias moves, which is after it was served.
    assert history[1]["time"] == (1000.0 if point == "alias" else times[-1])


def test_a_promotion_that_the_disk_ends_is_ended_by_doing_it_again(champion, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", Mock(side_effect=full))
        with pytest.raises(Failed, match="No space left on device"):
            run(champion.sweep("second"))
    assert champion.aliases()["champion"] == "1"
    assert run(champion.sweep("second")).version == "2"


def test_every_fault_point_is_tried():
    code = "".join(Path(str(module.__file__)).read_text() for module in (registration, versions))
    written = code.replace("{entry.action}", "promote")
    assert [point for point in POINTS if f'"promote.after_{point}"' not in written] == []
    assert code.count("fault_points.point(") == len(POINTS)


@pytest.mark.parametrize("moment", ["while it is served", "before the alias moves"])
def test_of_two_at_once_one_wins(champion, monkeypatch, moment):
    """The other one runs whole while the first is on its way; on a server nothing holds it back."""
    monkeypatch.setattr("sweeps.tracking.registry.sqlite_file", lambda _uri: None)
    begun: list[bool] = []
    others: list[PromotionResult] = []

    def other() -> None:
        if not begun:
            begun.append(True)
            others.append(run(champion.sweep("twin")))

    at: tuple[type, str] = (promotions.InProcess, "serve")
    if moment == "before the alias moves":
        at = (Registry, "remember")
    real = getattr(*at)

    def after_the_other(*words):
        other()
        return real(*words)

    monkeypatch.setattr(*at, after_the_other)
    outcome = run(champion.sweep("second"))
    assert others[0].exit_code == 0
    assert outcome.exit_code == 1
    assert "the champion changed meanwhile" in outcome.reasons[0]
    winner = others[0].version
    assert champion.aliases()["champion"] == winner != outcome.version
    history = as_json(models(MODEL, champion.uri)[0][0])["history"]
    assert [(each["version"], each["completed"]) for each in history] == [("1", True), (winner, True)]


def test_two_promotions_on_one_database_wait_for_each_other(world):
    """Both at the same time in two processes: one version, one alias, both end well."""
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = run(world.sweep("second")).exit_code
            finally:
                os._exit(code)
        children.append(child)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes in ([0, 0], [0, 1])
    assert world.versions() == ["1"]
    assert world.aliases() == {"challenger": "1", "champion": "1"}
    assert len(models(MODEL, world.uri)[0][0].history) == 1
