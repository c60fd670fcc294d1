"""Whoever asks a driver gets its answer, or is told why there is none."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest
from sweep_events import begun, ended, started

from sweeps.errors import SweepError
from sweeps.record.events import Event, RequestAnswered, SweepEnded, TrialState
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


def logged(folder: SweepFolder, *events: Event) -> Journal:
    journal = Journal(folder)
    for event in events:
        journal.add(event)
    return journal


FINISHED: list[Event] = [begun(), SweepEnded(time=2.0, reason="finished")]
INTERRUPTED: list[Event] = [begun(), SweepEnded(time=2.0, reason="interrupted")]
SENDS = "the sweep has ended; its driver still sends to MLflow"


@pytest.mark.parametrize(
    ("request_", "events", "is_driven", "told"),
    [
        (STOP, [], False, "the sweep is not running: there is nothing to stop; qsweep resume FOLDER goes on with it"),
        (StopTrial(sender="x", trial="t99"), [], False, "the sweep has no trial t99: none has begun yet"),
        (STOP, FINISHED, False, "the sweep has finished: there is nothing to stop"),
        (STOP, FINISHED, True, SENDS),
        (STOP, INTERRUPTED, True, f"{SENDS}, or has only begun to go on: then ask again"),
    ],
)
def test_a_sweep_that_cannot_answer_keeps_no_request(folder, request_, events, is_driven, told):
    logged(folder, *events)
    with locked(folder) if is_driven else nullcontext(), pytest.raises(SweepError) as refused:
        ask(folder, request_, lambda: pytest.fail("nothing will be answered"))
    assert str(refused.value) == f"{folder.path}: {told.replace('FOLDER', str(folder.path))}"
    assert not folder.requests.exists()


def test_the_answer_comes_back(folder: SweepFolder) -> None:
    journal = logged(folder, begun())
    stop = StopState()
    answerer = Answerer(Mailbox(folder), journal, stop, lambda _key: None, lambda: 1.0, Mock())

    def driver_looks() -> bool:
        answerer.answer_all()
        return False

    with locked(folder):
        answer = ask(folder, STOP, driver_looks)
    assert isinstance(answer, RequestAnswered) and answer.is_accepted
    assert stop.reason == "interrupted"


def test_a_driver_that_ends_first_leaves_no_request_behind(folder: SweepFolder) -> None:
    journal = logged(folder, begun())

    def driver_ends() -> bool:
        journal.add(SweepEnded(time=2.0, reason="finished"))
        return False

    with locked(folder), pytest.raises(SweepError, match="ended before its driver saw the request"):
        ask(folder, STOP, driver_ends)
    assert list(folder.requests.iterdir()) == []


def test_a_sweep_that_goes_on_after_it_was_interrupted_is_asked(folder: SweepFolder) -> None:
    logged(folder, *INTERRUPTED, begun(3.0))
    with locked(folder):
        assert ask(folder, STOP, lambda: True) is None
    assert len(list(folder.requests.iterdir())) == 1


@pytest.mark.parametrize("end", [INTERRUPTED[-1], FINISHED[-1]])
def test_a_trial_that_is_stopped_already_needs_no_driver(folder: SweepFolder, end: Event) -> None:
    logged(folder, begun(), started("aaa"), ended("aaa", TrialState.STOPPED), end)
    found = ask(folder, StopTrial(sender="a test", trial="t00"), lambda: pytest.fail("nothing will be answered"))
    assert found is not None and (found.is_accepted, found.message) == (True, "t00 is STOPPED already")
    assert not folder.requests.exists()
