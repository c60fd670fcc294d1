"""Whoever asks a driver gets its answer, or is told why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from unittest.mock import Mock

import pytest
from sweep_events import begun

from sweeps.errors import SweepError
from sweeps.record.events import RequestAnswered, SweepEnded
from sweeps.record.folder import SweepFolder, locked
from sweeps.record.journal import Journal
from sweeps.steering.answering import Answerer
from sweeps.steering.asking import ask
from sweeps.steering.mailbox import Mailbox, StopSweep, StopTrial
from sweeps.steering.stop import StopState

STOP = StopSweep(sender="a test")


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    (tmp_path / "events.jsonl").touch()
    return SweepFolder(tmp_path)


def test_a_sweep_that_is_not_running_is_told_and_keeps_no_request(folder: SweepFolder) -> None:
    with pytest.raises(SweepError, match="the sweep is not running: there is nothing to stop; qsweep resume"):
        ask(folder, STOP, lambda: pytest.fail("nobody is there to wait for"))
    assert not folder.requests.exists()


def test_a_trial_that_is_not_there_is_told_before_the_sweep_that_is_over(folder: SweepFolder) -> None:
    with pytest.raises(SweepError, match="the sweep has no trial t99: none has begun yet"):
        ask(folder, StopTrial(sender="x", trial="t99"), lambda: pytest.fail("nobody is there to wait for"))


def test_a_sweep_that_has_finished_is_told_so_and_not_to_go_on(folder: SweepFolder) -> None:
    journal = Journal(folder)
    journal.add(begun())
    journal.add(SweepEnded(time=2.0, reason="finished"))
    with pytest.raises(SweepError, match=r"the sweep has finished: there is nothing to stop$"):
        ask(folder, STOP, lambda: pytest.fail("nobody is there to wait for"))
    assert not folder.requests.exists()


def test_the_answer_comes_back(folder: SweepFolder) -> None:
    journal = Journal(folder)
    journal.add(begun())
    stop = StopState()
    answerer = Answerer(Mailbox(folder), journal, stop, lambda _key: None, lambda: 1.0, Mock())

    def driver_looks() -> bool:
        answerer.answer_all()
        return False

    with locked(folder):
        answer = ask(folder, STOP, driver_looks)
    assert isinstance(answer, RequestAnswered)
    assert answer.is_accepted
    assert stop.reason == "interrupted"


def test_a_driver_that_ends_first_leaves_no_request_behind(folder: SweepFolder) -> None:
    journal = Journal(folder)
    journal.add(begun())

    def driver_ends() -> bool:
        journal.add(SweepEnded(time=2.0, reason="finished"))
        return False

    with locked(folder), pytest.raises(SweepError, match="ended before its driver saw the request"):
        ask(folder, STOP, driver_ends)
    assert list(folder.requests.iterdir()) == []


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("finished", "the sweep has ended; its driver still sends to MLflow"),
        ("interrupted", "the sweep has ended; its driver still sends to MLflow, or has only begun to go on"),
    ],
)
def test_a_driver_that_only_delivers_to_mlflow_is_asked_for_nothing(
    folder: SweepFolder, reason: Literal["finished", "interrupted"], told: str
) -> None:
    journal = Journal(folder)
    journal.add(begun())
    journal.add(SweepEnded(time=2.0, reason=reason))
    with locked(folder), pytest.raises(SweepError) as refused:
        ask(folder, STOP, lambda: pytest.fail("nothing will be answered"))
    assert str(refused.value).startswith(f"{folder.path}: {told}")
    assert not folder.requests.exists()


def test_a_sweep_that_goes_on_after_it_was_interrupted_is_asked(folder: SweepFolder) -> None:
    journal = Journal(folder)
    for event in (begun(), SweepEnded(time=2.0, reason="interrupted"), begun(3.0)):
        journal.add(event)
    with locked(folder):
        assert ask(folder, STOP, lambda: True) is None
    assert len(list(folder.requests.iterdir())) == 1
