"""Follows what a job prints, over connections that may break, until it has ended."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from cluster.errors import ClusterError, ConnectionFailed, SubmissionFailed
from cluster.submission.jobs import Jobs, Seen

QUIET_SECONDS = 20.0
"""After so long without a line, the cluster is asked whether it is still there: a dead connection says nothing."""
PAUSE_SECONDS = 2.0
PATIENCE_SECONDS = 300.0
"""How long a cluster may not answer before it is given up."""
SHORT_SECONDS = 120.0
TURN_SECONDS = 0.2
ENDING_TURNS = 25
"""How often it is looked whether a job has ended that was asked to."""
CLOSING_KEY = "dir"
"""What --json prints of a sweep has its folder. Other lines of JSON are a trainable's own."""
FINDINGS_KEY = "findings"
"""What --json prints of the doctor has its findings."""
_OF_RAY = ("Running entrypoint for job ", "Runtime env is setting up.")


@dataclass
class Printed:
    """What a job has printed: lines for people, and the JSON object that --json prints at its end."""

    say: Callable[[str], None]
    closing_key: str = CLOSING_KEY
    """A key of that object."""
    closing: dict[str, Any] | None = None
    _taken: int = field(default=0, init=False)
    """Characters that were taken."""
    _rest: str = field(default="", init=False)
    """A line that is not whole yet."""

    def take(self, text: str) -> None:
        """Takes the next text."""
        self._taken += len(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._line(line)

    def end(self) -> None:
        """Takes a last line that has no end."""
        if self._rest:
            self._line(self._rest)
        self._rest = ""

    def again(self) -> Callable[[str], None]:
        """Takes the text from its beginning, but tells nothing twice."""
        left = self._taken

        def take(text: str) -> None:
            nonlocal left
            new, left = text[left:], max(0, left - len(text))
            if new:
                self.take(new)

        return take

    def _line(self, line: str) -> None:
        closing = _closing(line, self.closing_key)
        if closing is not None:
            self.closing = closing
        elif not any(words in line for words in _OF_RAY):
            self.say(line)


def follow(
    jobs: Jobs,
    job_id: str,
    printed: Printed,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Seen:
    """What became of a job, once it has ended; its output goes to `printed`.

    Raises:
        ConnectionFailed: the cluster has not answered for `PATIENCE_SECONDS`; the job may go on.
        SubmissionFailed: the cluster does not know the job any more.
    """
    lost = _Lost(jobs.address, say, clock)
    pause = threading.Event()
    while True:
        try:
            asyncio.run(_stream(jobs, job_id, lost.found_by(printed.again())))
            seen = jobs.look_up(job_id)
        except SubmissionFailed:
            raise
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            lost.again(error)
        else:
            lost.since = None
            if seen is None:
                raise SubmissionFailed(f"{job_id}: {jobs.address} does not know this job any more")
            if seen.has_ended:
                printed.end()
                return seen
        pause.wait(PAUSE_SECONDS)


@dataclass
class _Lost:
    """A connection that may be lost for a while."""

    address: str
    say: Callable[[str], None]
    clock: Callable[[], float]
    since: float | None = None

    def found_by(self, take: Callable[[str], None]) -> Callable[[str], None]:
        """As `take`, which shows that the connection is there."""

        def take_found(text: str) -> None:
            self.since = None
            take(text)

        return take_found

    def again(self, error: Exception) -> None:
        """Takes note of a failure; raises ConnectionFailed after too long a time of them."""
        if self.since is None:
            self.since = self.clock()
            self.say("the connection is lost; the job goes on; trying to connect again")
        elif self.clock() - self.since > PATIENCE_SECONDS:
            raise ConnectionFailed(
                f"{self.address}: no answer for {PATIENCE_SECONDS:.0f} s: {error}; the job may go on"
            ) from None


def wait(jobs: Jobs, job_id: str, printed: Printed, clock: Callable[[], float] = time.monotonic) -> Seen:
    """What became of a job of some seconds, sooner than by following it; it is removed from the cluster's list.

    Ray may list it again as FAILED: its monitor, which looks once a second, takes a job without an entry whose process
    has ended for one that has died (dashboard/modules/job/job_manager.py, 2.60: `_monitor_job_internal`).

    Raises:
        ConnectionFailed: the cluster does not answer, or the job has not ended after `SHORT_SECONDS`; what it is for
            may have been done.
    """
    began, pause = clock(), threading.Event()
    while True:
        try:
            seen = jobs.look_up(job_id)
            if seen is not None and seen.has_ended:
                printed.take(jobs.logs(job_id))
                printed.end()
                with suppress(ClusterError):  # the answer is there
                    jobs.delete(job_id)
                return seen
        except SubmissionFailed as error:
            raise ConnectionFailed(str(error)) from None
        if clock() - began > SHORT_SECONDS:
            raise ConnectionFailed(
                f"{jobs.address}: no answer within {SHORT_SECONDS:.0f} s: the head node may be too busy to start a job"
            )
        pause.wait(TURN_SECONDS)


def give_up(jobs: Jobs, job_id: str) -> bool:
    """Stops a job of some seconds and removes it from the cluster's list; False when it may stay there."""
    pause = threading.Event()
    with suppress(ClusterError):
        for turn in range(ENDING_TURNS):
            seen = jobs.look_up(job_id)
            if seen is None:
                return True
            if seen.has_ended:
                jobs.delete(job_id)
                return True
            if turn == 0:
                jobs.stop(job_id)
            pause.wait(TURN_SECONDS)
    return False


async def _stream(jobs: Jobs, job_id: str, take: Callable[[str], None]) -> None:
    """Takes what the job prints until it has ended.

    Raises:
        OSError, RuntimeError: the connection broke.
    """
    stream = jobs.tail(job_id)
    waiting = asyncio.ensure_future(anext(stream, None))
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=QUIET_SECONDS)
            if not done:
                await asyncio.to_thread(jobs.look_up, job_id)
                continue
            text = waiting.result()
            if text is None:
                return
            take(text)
            waiting = asyncio.ensure_future(anext(stream, None))
    finally:
        waiting.cancel()


def exit_code(seen: Seen) -> int:
    """The sweep's exit code; 143, that of SIGTERM, when Ray was asked to stop the job, and 1 when Ray could not say."""
    if seen.exit_code is not None:
        return seen.exit_code if seen.exit_code >= 0 else 128 - seen.exit_code
    return 143 if seen.status == "STOPPED" else 1


def _closing(line: str, key: str) -> dict[str, Any] | None:
    """The object that --json prints at a command's end, if the line is one."""
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and key in value else None
