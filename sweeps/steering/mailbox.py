"""The mailbox of a running sweep, for requests of another process, or of a signal, to the driver.

A request is a file in the sweep's folder that appears whole. The driver writes its answer into the event log, and then
removes the file. So a request is answered once, also when the driver dies in between: the next driver knows from the
log what was answered, and answers the rest.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from sweeps.record.folder import SweepFolder, writing
from sweeps.record.whole_files import make_folder, write_whole
from trainables.specs import Spec


class StopSweep(Spec):
    """Asks to end the sweep in order: trials are saved, and `qsweep resume` goes on with them."""

    type: Literal["stop_sweep"] = "stop_sweep"
    sender: str
    """Who asks: a command or a signal."""


class StopTrial(Spec):
    """Asks to end one trial for good: it keeps the rank that its last report gave it."""

    type: Literal["stop_trial"] = "stop_trial"
    sender: str
    trial: str
    """The trial's key, or its name in the table, such as t03."""


class AddPoint(Spec):
    """Asks to try a point next."""

    type: Literal["add_point"] = "add_point"
    sender: str
    values: dict[str, Any]
    """Searched field, or the last part of its name -> value. Other fields keep the file's values."""


class ExtendSweep(Spec):
    """Asks for other budgets, or another number of hosts."""

    type: Literal["extend_sweep"] = "extend_sweep"
    sender: str
    changes: dict[str, Any]
    """Dotted key of the sweep file -> its value from now on."""


Request = StopSweep | StopTrial | AddPoint | ExtendSweep
_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])


@dataclass(frozen=True)
class Letter:
    """A request in the mailbox."""

    request_id: str
    request: Request | None
    """None if the file cannot be read, or holds no request that this version knows."""
    is_left_over: bool
    """Whether the request was there before this driver began."""


class Mailbox:
    """The driver's side of a sweep's mailbox."""

    def __init__(self, folder: SweepFolder) -> None:
        """Takes the requests that lie in the mailbox now for left over: no earlier driver has answered them."""
        self._folder = folder
        self._posted: list[Letter] = []
        self._left_over = frozenset(path.stem for path in folder.request_files())

    def post(self, request: Request) -> None:
        """Adds a request of this process, without a file."""
        self._posted.append(Letter(uuid.uuid4().hex, request, is_left_over=False))

    def waiting(self) -> Iterator[Letter]:
        """Yields the requests that wait: first those of this process, then the files, each in the order of sending."""
        yield from list(self._posted)
        for path in self._folder.request_files():
            letter = _letter(path, is_left_over=path.stem in self._left_over)
            if letter is not None:
                yield letter

    def remove(self, letter: Letter) -> None:
        """Removes an answered request."""
        if letter in self._posted:
            self._posted.remove(letter)
            return
        withdraw(self._folder, letter.request_id)


def send(folder: SweepFolder, request: Request, time_ns: int) -> str:
    """Puts a request into the mailbox of a sweep; returns the request's id.

    Args:
        time_ns: nanoseconds since the epoch; requests are answered in this order.

    Raises:
        StorageError: the sweep's folder cannot be written.
    """
    request_id = f"{time_ns:020d}-{uuid.uuid4().hex[:8]}"
    path = _path(folder, request_id)
    with writing(path):
        make_folder(path.parent, below=folder.path)
        write_whole(path, request.model_dump_json().encode())
    return request_id


def withdraw(folder: SweepFolder, request_id: str) -> None:
    """Removes a request from the mailbox, if it is there."""
    with suppress(OSError):
        _path(folder, request_id).unlink(missing_ok=True)


def _path(folder: SweepFolder, request_id: str) -> Path:
    return folder.requests / f"{request_id}.json"


def _letter(path: Path, is_left_over: bool) -> Letter | None:
    """Reads a file of the mailbox; None if its sender has withdrawn it."""
    try:
        return Letter(path.stem, _REQUEST.validate_json(path.read_bytes()), is_left_over)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return Letter(path.stem, None, is_left_over)
