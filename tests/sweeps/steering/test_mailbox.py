"""Requests reach the mailbox whole and in order, and one that was answered is answered once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from sweep_events import begun, ended, started

from sweeps.errors import StorageError
from sweeps.record.events import Event, Reply, RequestAnswered, TrialState
from sweeps.record.folder import SweepFolder, read_events
from sweeps.record.journal import Journal
from sweeps.steering import mailbox
from sweeps.steering.answering import NOT_KNOWN, STOPPED_BY_REQUEST, Answerer
from sweeps.steering.mailbox import Mailbox, StopSweep, StopTrial
from sweeps.steering.stop import StopState

SENDER = "a test"
STOP = StopSweep(sender=SENDER)


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path)


def nothing_more(_request: object, _record: object) -> Reply:
    return Reply(False, "no more")


class Driver:
    """A driver without Ray: its event log, and what it was asked for."""

    def __init__(self, folder: SweepFolder, *events: Event) -> None:
        self.journal = Journal(folder)
        self.mailbox = Mailbox(folder)
        self.stop = StopState()
        self.stopped: list[str] = []
        for event in events:
            self.journal.add(event)
        self.answerer = Answerer(self.mailbox, self.journal, self.stop, self.stopped.append, lambda: 50.0, nothing_more)


@pytest.fixture
def driver(folder: SweepFolder) -> Driver:
    folder.events.touch()
    return Driver(folder, begun(), started("bbb", 1), started("aaa", 0), ended("bbb", TrialState.COMPLETED))


def answers(folder: SweepFolder) -> list[RequestAnswered]:
    return [event for event, _ in read_events(folder.events) if isinstance(event, RequestAnswered)]


def test_requests_wait_in_the_order_in_which_they_were_sent(folder: SweepFolder) -> None:
    box = Mailbox(folder)
    assert list(box.waiting()) == []
    trial = StopTrial(sender=SENDER, trial="t01")
    second, first = mailbox.send(folder, STOP, time_ns=20), mailbox.send(folder, trial, time_ns=10)
    assert [(letter.request_id, letter.request) for letter in box.waiting()] == [(first, trial), (second, STOP)]


def test_a_folder_that_cannot_be_written_is_told_and_one_that_is_gone_does_not_come_back(folder: SweepFolder) -> None:
    folder.requests.write_text("a file stands where the mailbox should be")
    with pytest.raises(StorageError, match="cannot be written"):
        mailbox.send(folder, STOP, time_ns=1)
    gone = SweepFolder(folder.path / "gone")
    with pytest.raises(StorageError, match="is gone"):
        mailbox.send(gone, STOP, time_ns=1)
    assert not gone.path.exists()


def test_a_request_to_stop_ends_the_sweep_and_is_in_the_log(folder: SweepFolder, driver: Driver) -> None:
    request_id = mailbox.send(folder, STOP, time_ns=1)
    driver.answerer.answer_all()
    driver.answerer.answer_all()
    assert (driver.stop.reason, driver.stop.message) == ("interrupted", STOPPED_BY_REQUEST)
    # The process ends as if by Ctrl-C: with exit code 130.
    assert driver.stop.signal == signal.SIGINT
    (answer,) = answers(folder)
    assert (answer.request, answer.sender, answer.is_accepted, answer.time) == (request_id, SENDER, True, 50.0)
    assert list(folder.requests.iterdir()) == []


@pytest.mark.parametrize("name", ["aaa", "t00", "T00"])
def test_a_running_trial_is_stopped_by_its_key_or_its_name(folder: SweepFolder, driver: Driver, name: str) -> None:
    mailbox.send(folder, StopTrial(sender=SENDER, trial=name), time_ns=1)
    driver.answerer.answer_all()
    assert (driver.stopped, driver.stop.reason) == (["aaa"], None)
    assert driver.journal.record.trials_to_stop == {"aaa"}


def test_a_trial_that_does_not_run_is_not_stopped(folder: SweepFolder, driver: Driver) -> None:
    for time, name in enumerate(("t01", "t07")):
        mailbox.send(folder, StopTrial(sender=SENDER, trial=name), time_ns=time)
    driver.answerer.answer_all()
    assert [(answer.is_accepted, answer.message) for answer in answers(folder)] == [
        (False, "t01 is COMPLETED: only a RUNNING or PARKED trial can be stopped"),
        (False, "the sweep has no trial t07: it has t00, t01"),
    ]
    assert driver.stopped == [] and driver.journal.record.trials_to_stop == frozenset()


def _of_another_user(path: Path) -> None:
    path.write_text(STOP.model_dump_json())
    path.chmod(0)


@pytest.mark.parametrize(
    "make", ["", "{", '{"type": "paint_it_black"}', '{"type": "stop_sweep"}', Path.mkdir, _of_another_user]
)
def test_what_is_no_request_or_cannot_be_read_is_refused_once_and_the_sweep_goes_on(
    folder: SweepFolder, driver: Driver, make: str | Callable[[Path], None]
) -> None:
    if make is _of_another_user and os.geteuid() == 0:
        pytest.skip("root reads every file")
    folder.requests.mkdir()
    path = folder.requests / "0.json"
    path.write_text(make) if isinstance(make, str) else make(path)
    request_id = mailbox.send(folder, StopTrial(sender=SENDER, trial="t00"), time_ns=2)
    driver.answerer.answer_all()
    driver.answerer.answer_all()
    refused, accepted = answers(folder)
    assert (refused.request, refused.is_accepted, refused.message) == ("0", False, NOT_KNOWN)
    assert (accepted.request, accepted.is_accepted, driver.stopped) == (request_id, True, ["aaa"])
    assert driver.stop.reason is None


def test_a_signal_is_answered_although_the_log_could_not_be_written_at_first(folder, driver, monkeypatch):
    driver.mailbox.post(StopSweep(sender="SIGTERM"))
    with monkeypatch.context() as patch:
        patch.setattr(driver.journal, "add", Mock(side_effect=StorageError("the disk is full")))
        with pytest.raises(StorageError, match="the disk is full"):
            driver.answerer.answer_all()
    driver.answerer.answer_all()
    driver.answerer.answer_all()
    assert [answer.sender for answer in answers(folder)] == ["SIGTERM"]


def test_the_next_driver_answers_what_was_not_answered_and_nothing_twice(folder, driver):
    answered = mailbox.send(folder, STOP, time_ns=1)
    driver.answerer.answer_all()
    driver.journal.close()
    # As if the driver had died before it removed the file.
    (folder.requests / f"{answered}.json").write_text(STOP.model_dump_json())
    mailbox.send(folder, STOP, time_ns=2)
    mailbox.send(folder, StopTrial(sender=SENDER, trial="t00"), time_ns=3)
    following = Driver(folder, begun(60.0))
    following.answerer.answer_all()
    first, stop_sweep, stop_trial = answers(folder)
    assert first.request == answered
    # It would end the sweep that somebody has just resumed.
    assert not stop_sweep.is_accepted and stop_sweep.message.startswith("the sweep was not running")
    assert stop_trial.is_accepted
    assert (following.stop.reason, following.stopped) == (None, ["aaa"])
    assert list(folder.requests.iterdir()) == []
