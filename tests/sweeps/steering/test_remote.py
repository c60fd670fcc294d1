"""What a driver answers to requests from outside its cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sweep_events import begun, started

from sweeps.record.events import RequestAnswered
from sweeps.record.folder import SweepFolder, locked
from sweeps.record.journal import Journal
from sweeps.steering import mailbox
from sweeps.steering.mailbox import Mailbox, StopTrial
from sweeps.steering.remote import ANSWERED_BEFORE, RemoteAnswer, RemoteAnswerer, RemoteRequest, answering

CONFIG = {"sweep_id": "x-1", "config": {"budget": {"trials": 4}, "tracking": {"uri": "http://me:secret@mlflow"}}}
STATUS = RemoteRequest(width=100).model_dump_json().encode()
STOP = RemoteRequest(request=StopTrial(sender="qsweep stop", trial="t00")).model_dump_json().encode()
ID = mailbox.new_id(1)


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return SweepFolder(tmp_path)


@pytest.fixture
def journal(folder: SweepFolder) -> Iterator[Journal]:
    with locked(folder), closing(Journal(folder)) as opened:
        for event in (begun(), started("aaa", 0, r=8)):
            opened.add(event)
        yield opened


def answered(request_id: str, *, is_accepted: bool = True) -> RequestAnswered:
    return RequestAnswered(
        time=1.0, request=request_id, sender="qsweep stop", asked="stop t00", is_accepted=is_accepted, message="it ends"
    )


def read(answer: bytes | None) -> RemoteAnswer:
    assert answer is not None
    return RemoteAnswer.model_validate_json(answer)


def test_the_status_is_that_of_qsweep_status_as_it_is_now(folder: SweepFolder, journal: Journal) -> None:
    answerer = RemoteAnswerer(folder, journal)
    first = read(answerer(ID, STATUS))
    assert (first.exit_code, first.closing["state"], first.closing["trials"]) == (0, "RUNNING", 1)
    assert first.lines[0] == "x-1: running"
    assert any("t00" in line for line in first.lines), "with the table of trials"
    assert max(map(len, first.lines)) <= 100
    assert "secret" not in str(first)
    journal.add(started("bbb", 1, r=4))
    assert read(answerer(mailbox.new_id(2), STATUS)).closing["trials"] == 2


def test_a_request_waits_for_the_drivers_own_answer(folder: SweepFolder, journal: Journal) -> None:
    answerer, box = RemoteAnswerer(folder, journal), Mailbox(folder)
    assert answerer(ID, STOP) is None
    assert answerer(ID, STOP) is None
    (letter,) = box.waiting()
    assert (letter.request_id, letter.request, letter.is_left_over) == (
        ID, StopTrial(sender="qsweep stop", trial="t00"), False,
    )  # fmt: skip
    journal.add(answered(ID))
    box.remove(letter)
    assert read(answerer(ID, STOP)) == RemoteAnswer(
        lines=("it ends",), closing={"dir": str(folder.path), "accepted": True, "message": "it ends"}, exit_code=0
    )
    assert list(box.waiting()) == []


def test_a_refusal_is_exit_code_2(folder: SweepFolder, journal: Journal) -> None:
    answerer = RemoteAnswerer(folder, journal)
    answerer(ID, STOP)
    journal.add(answered(ID, is_accepted=False))
    told = read(answerer(ID, STOP))
    assert (told.lines, told.exit_code) == (("refused: it ends",), 2)


def test_what_an_earlier_driver_has_answered_is_not_asked_again(folder: SweepFolder, journal: Journal) -> None:
    journal.add(answered(ID))
    told = read(RemoteAnswerer(folder, journal)(ID, STOP))
    assert (told.lines, told.exit_code) == ((ANSWERED_BEFORE,), 1)
    assert list(Mailbox(folder).waiting()) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b'{"request": {"type": "fly"}}', b'{"request": {"type": "stop_sweep", "sender": "x"}}',
     b'{"width": 0}'],
)  # fmt: skip
def test_what_it_does_not_know_is_refused(folder: SweepFolder, journal: Journal, content: bytes) -> None:
    told = read(RemoteAnswerer(folder, journal)(ID, content))
    assert (told.exit_code, "does not know the request" in told.lines[0]) == (2, True)


def test_a_folder_that_cannot_be_read_is_told_and_ends_nothing(folder: SweepFolder, journal: Journal) -> None:
    folder.config.write_text("{}")
    told: Any = read(RemoteAnswerer(folder, journal)(ID, STATUS))
    assert (told.exit_code, "not the configuration of a sweep" in told.lines[0]) == (2, True)


@pytest.mark.parametrize(("job", "reached_as"), [("x-1-resumed", "x-1-resumed"), ("", "x-1")])
def test_a_sweep_that_a_job_has_resumed_is_reached_by_that_jobs_id(
    folder: SweepFolder, journal: Journal, monkeypatch: pytest.MonkeyPatch, job: str, reached_as: str
) -> None:
    ids: list[str] = []

    class Box:
        def __init__(self, sweep_id: str, _answer: object) -> None:
            ids.append(sweep_id)

        @contextmanager
        def open(self) -> Iterator[None]:
            yield

    monkeypatch.setattr("cluster.submission.remote_mailbox.RemoteMailbox", Box)
    monkeypatch.setenv("QSWEEP_SWEEP_ID", job)
    for address in ("local", "auto"):
        with answering("x-1", folder, journal, address):
            pass
    assert ids == [reached_as]
