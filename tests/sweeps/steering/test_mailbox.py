"""Requests reach the mailbox whole and in order, and one that was answered is answered once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from sweep_events import begun, ended, started

from sweeps.errors import StorageError
from sweeps.record.events import Answer, Event, RequestAnswered, TrialState
from sweeps.record.folder import SweepFolder, read_events
from sweeps.record.journal import Journal
from sweeps.steering import mailbox
from sweeps.steering.answering import NOT_KNOWN, STOPPED_BY_REQUEST, Answerer
from sweeps.steering.mailbox import Mailbox, StopSweep, StopTrial
from sweeps.steering.stop import StopState

SENDER = "a test"


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path)


def nothing_more(_request: object, _record: object) -> Answer:
    return Answer(False, "no more")


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
    second = mailbox.send(folder, StopSweep(sender=SENDER), time_ns=20)
    first = mailbox.send(folder, StopTrial(sender=SENDER, trial="t01"), time_ns=10)
    assert [letter.request_id for letter in box.waiting()] == [first, second]
    assert [letter.request for letter in box.waiting()] == [
        StopTrial(sender=SENDER, trial="t01"),
        StopSweep(sender=SENDER),
    ]


def test_a_folder_that_cannot_be_written_is_told(folder: SweepFolder) -> None:
    folder.requests.write_text("a file stands where the mailbox should be")
    with pytest.raises(StorageError, match="cannot be written"):
        mailbox.send(folder, StopSweep(sender=SENDER), time_ns=1)


def test_a_sweep_that_is_gone_does_not_come_back_for_a_request(tmp_path: Path) -> None:
    gone = SweepFolder(tmp_path / "gone")
    with pytest.raises(StorageError, match="is gone"):
        mailbox.send(gone, StopSweep(sender=SENDER), time_ns=1)
    assert not gone.path.exists()


def test_a_request_to_stop_ends_the_sweep_and_is_in_the_log(folder: SweepFolder, driver: Driver) -> None:
    request_id = mailbox.send(folder, StopSweep(sender=SENDER), time_ns=1)
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
    assert driver.stopped == ["aaa"]
    assert driver.stop.reason is None
    assert driver.journal.record.trials_to_stop == {"aaa"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("t01", "t01 is COMPLETED: only a RUNNING or PARKED trial can be stopped"),
        ("t07", "the sweep has no trial t07: it has t00, t01"),
    ],
)
def test_a_trial_that_does_not_run_is_not_stopped(folder: SweepFolder, driver: Driver, name: str, told: str) -> None:
    mailbox.send(folder, StopTrial(sender=SENDER, trial=name), time_ns=1)
    driver.answerer.answer_all()
    (answer,) = answers(folder)
    assert (answer.is_accepted, answer.message) == (False, told)
    assert driver.stopped == []
    assert driver.journal.record.trials_to_stop == frozenset()


@pytest.mark.parametrize("content", ["", "{", '{"type": "paint_it_black"}', '{"type": "stop_sweep"}'])
def test_what_is_no_request_is_refused(folder: SweepFolder, driver: Driver, content: str) -> None:
    folder.requests.mkdir()
    (folder.requests / "1.json").write_text(content)
    driver.answerer.answer_all()
    (answer,) = answers(folder)
    assert (answer.is_accepted, answer.message) == (False, NOT_KNOWN)
    assert driver.stop.reason is None


def _of_another_user(path: Path) -> None:
    path.write_text(StopSweep(sender=SENDER).model_dump_json())
    path.chmod(0)


@pytest.mark.parametrize("make", [Path.mkdir, _of_another_user])
def test_what_cannot_be_read_is_refused_once_and_the_sweep_goes_on(
    folder: SweepFolder, driver: Driver, make: Callable[[Path], None]
) -> None:
    if make is _of_another_user and os.geteuid() == 0:
        pytest.skip("root reads every file")
    folder.requests.mkdir()
    make(folder.requests / "0.json")
    request_id = mailbox.send(folder, StopTrial(sender=SENDER, trial="t00"), time_ns=2)
    driver.answerer.answer_all()
    driver.answerer.answer_all()
    refused, accepted = answers(folder)
    assert (refused.request, refused.is_accepted) == ("0", False)
    assert refused.message == NOT_KNOWN
    assert (accepted.request, accepted.is_accepted, driver.stopped) == (request_id, True, ["aaa"])
    assert driver.stop.reason is None


def test_a_signal_is_answered_although_the_log_could_not_be_written_at_first(
    folder: SweepFolder, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_event: Event) -> None:
        raise StorageError("the disk is full")

    driver.mailbox.post(StopSweep(sender="SIGTERM"))
    with monkeypatch.context() as patch:
        patch.setattr(driver.journal, "add", full)
        with pytest.raises(StorageError, match="the disk is full"):
            driver.answerer.answer_all()
    driver.answerer.answer_all()
    driver.answerer.answer_all()
    assert [answer.sender for answer in answers(folder)] == ["SIGTERM"]


def test_a_driver_that_died_after_its_answer_does_not_let_the_next_one_answer_again(
    folder: SweepFolder, driver: Driver
) -> None:
    request_id = mailbox.send(folder, StopSweep(sender=SENDER), time_ns=1)
    letter = next(driver.mailbox.waiting())
    driver.answerer.answer_all()
    driver.journal.close()
    # As if the file had still been there.
    (folder.requests / f"{request_id}.json").write_text(StopSweep(sender=SENDER).model_dump_json())
    following = Driver(folder, begun(60.0))
    following.answerer.answer_all()
    assert [answer.request for answer in answers(folder)] == [letter.request_id]
    assert following.stop.reason is None
    assert list(folder.requests.iterdir()) == []


def test_the_next_driver_answers_what_was_not_answered(folder: SweepFolder, driver: Driver) -> None:
    driver.journal.close()
    mailbox.send(folder, StopSweep(sender=SENDER), time_ns=1)
    mailbox.send(folder, StopTrial(sender=SENDER, trial="t00"), time_ns=2)
    following = Driver(folder, begun(60.0))
    following.answerer.answer_all()
    stop_sweep, stop_trial = answers(folder)
    # It would end the sweep that somebody has just resumed.
    assert not stop_sweep.is_accepted
    assert stop_sweep.message.startswith("the sweep was not running")
    assert stop_trial.is_accepted
    assert (following.stop.reason, following.stopped) == (None, ["aaa"])
