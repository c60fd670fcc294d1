"""What the driver of a submitted sweep answers to requests from outside its cluster, and how both sides write them."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from sweeps.record.events import Event, RequestAnswered
from sweeps.record.folder import SweepFolder
from sweeps.record.journal import Journal
from sweeps.record.sweep_record import SweepRecord
from sweeps.report import status
from sweeps.report.status import EventsRead
from sweeps.steering import mailbox
from sweeps.steering.answering import NOT_KNOWN
from sweeps.steering.mailbox import AddPoint, ExtendSweep, StopTrial
from trainables.specs import Spec

if TYPE_CHECKING:
    from rich.console import RenderableType

ANSWERED_BEFORE = "this was answered before: qsweep status shows what came of it"


class RemoteRequest(Spec):
    """What is asked for."""

    request: StopTrial | AddPoint | ExtendSweep | None = None
    """None asks where the sweep stands."""
    width: int = Field(default=140, ge=20, le=1000)
    """Columns of the terminal."""


class RemoteAnswer(Spec):
    """What the command that asked prints, and how it ends."""

    lines: tuple[str, ...]
    closing: dict[str, Any]
    """The JSON line."""
    exit_code: int


class RemoteAnswerer:
    """Answers such requests for one driver: it passes them on to its mailbox, and reads the sweep's status."""

    def __init__(self, folder: SweepFolder, journal: Journal) -> None:
        """Answers nothing from before: what an earlier driver answered is only known to have been answered."""
        self._folder, self._journal = folder, journal
        self._events = EventsRead()
        self._passed: set[str] = set()
        """Ids of the requests that were passed on."""
        self._answers: dict[str, RequestAnswered] = {}
        journal.listen(self._hear)

    def __call__(self, request_id: str, content: bytes) -> bytes | None:
        """The answer to a request; None before the driver has answered it."""
        try:
            asked = RemoteRequest.model_validate_json(content)
        except ValidationError:
            return _refused(NOT_KNOWN)
        try:
            answer = self._status(asked.width) if asked.request is None else self._passed_on(request_id, asked.request)
            return None if answer is None else answer.model_dump_json().encode()
        except Exception as error:  # a request ends no sweep
            return _refused(f"{type(error).__name__}: {error}")

    def _hear(self, event: Event, _record: SweepRecord) -> None:
        if isinstance(event, RequestAnswered):
            self._answers[event.request] = event

    def _status(self, width: int) -> RemoteAnswer:
        now = status.read(self._folder, time.time(), self._events)
        return RemoteAnswer(lines=_lines(status.shown(now), width), closing=now.as_json(), exit_code=0)

    def _passed_on(self, request_id: str, request: mailbox.Request) -> RemoteAnswer | None:
        answered = self._answers.get(request_id)
        if answered is not None:
            return told(self._folder, answered)
        if request_id not in self._passed:
            if request_id in self._journal.record.answered:
                return RemoteAnswer(lines=(ANSWERED_BEFORE,), closing={"message": ANSWERED_BEFORE}, exit_code=1)
            mailbox.put(self._folder, request_id, request)
            self._passed.add(request_id)
        return None


@contextmanager
def answering(sweep_id: str, folder: SweepFolder, journal: Journal, address: str) -> Iterator[None]:
    """Answers requests from outside the cluster while the block runs, in which this process is connected to Ray.

    There are none where `address` is that of a Ray of the sweep's own (`local`), which has no dashboard.
    """
    if address == "local":
        yield
        return
    # Imported here: what asks a sweep of this machine needs no part of it.
    from cluster.submission.on_node import SWEEP_ID
    from cluster.submission.remote_mailbox import RemoteMailbox

    # A job that has resumed the sweep is asked by its own id.
    reached_as = os.environ.get(SWEEP_ID) or sweep_id
    with RemoteMailbox(reached_as, RemoteAnswerer(folder, journal)).open():
        yield


def told(folder: SweepFolder, answered: RequestAnswered) -> RemoteAnswer:
    """What a command prints of a driver's answer."""
    return RemoteAnswer(
        lines=(f"{'' if answered.is_accepted else 'refused: '}{answered.message}",),
        closing={"dir": str(folder.path), "accepted": answered.is_accepted, "message": answered.message},
        exit_code=0 if answered.is_accepted else 2,
    )


def _lines(shown: RenderableType, width: int) -> tuple[str, ...]:
    """What a console of so many columns shows."""
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=width, highlight=False).print(shown)
    return tuple(line.rstrip() for line in text.getvalue().splitlines())


def _refused(why: str) -> bytes:
    answer = RemoteAnswer(lines=(f"refused: {why}",), closing={"accepted": False, "message": why}, exit_code=2)
    return answer.model_dump_json().encode()
