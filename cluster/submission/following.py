"""Follows what a job prints until it has ended, also where the cluster does not answer for a while."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from cluster.errors import ClusterError, ConnectionFailed, SubmissionFailed
from cluster.submission.jobs import Jobs, JobState, rest

PAUSE_SECONDS = 2.0
"""Pause between two looks at a job that is followed."""
MOST_RATE = 500_000
"""Characters a second: a look sends all that the job has printed, so the pause after a look at more is longer."""
PATIENCE_SECONDS = 300.0
"""How long a cluster may not answer before it is given up."""
SHORT_SECONDS = 120.0
"""How long a job of some seconds may take."""
TURN_SECONDS = 0.3
"""Pause between two looks at such a job."""
CLOSING_KEY = "dir"
"""What --json prints of a sweep has its folder. Other lines of JSON are a trainable's own."""
FINDINGS_KEY = "findings"
"""What --json prints of the doctor has its findings."""
_OF_RAY = ("Running entrypoint for job ", "Runtime env is setting up.")


class Ended(NamedTuple):
    """How a job has ended."""

    state: JobState
    closing: dict[str, Any] | None
    """The JSON object that --json prints at a command's end."""


def lines_of(text: str) -> list[str]:
    """The lines that a job has printed, without those of Ray."""
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line for line in lines if not any(words in line for words in _OF_RAY)]


def follow(
    jobs: Jobs,
    job_id: str,
    say: Callable[[str], None],
    closing_key: str = CLOSING_KEY,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = rest,
) -> Ended:
    """Says each line that a job prints for people, and returns how the job has ended.

    Raises:
        ConnectionFailed: the cluster has not answered for `PATIENCE_SECONDS`; the job may go on.
        SubmissionFailed: the cluster does not know the job any more.
    """
    said, closing, lost = 0, None, None
    while True:
        began, seconds = clock(), PAUSE_SECONDS
        try:
            # In this order: what an ended job has printed is whole.
            state = jobs.look_up(job_id)
            if state is None:
                raise SubmissionFailed(f"{job_id}: {jobs.address} does not know this job any more")
            text = jobs.logs(job_id)
        except ConnectionFailed as error:
            if lost is None:
                say("the connection is lost; the job goes on; trying to connect again")
            lost = began if lost is None else lost
            if clock() - lost > PATIENCE_SECONDS:
                raise ConnectionFailed(
                    f"{jobs.address}: no answer for {PATIENCE_SECONDS:.0f} s: {error}; the job may go on"
                ) from None
        else:
            lost = None
            whole = len(text) if state.has_ended else text.rfind("\n") + 1
            closing = _say(text[said:whole], say, closing_key) or closing
            said = max(said, whole)
            if state.has_ended:
                return Ended(state, closing)
            seconds = max(PAUSE_SECONDS, len(text) / MOST_RATE)
        pause(seconds)


def wait(
    jobs: Jobs,
    job_id: str,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = rest,
) -> Ended:
    """As `follow`, for a job of some seconds, whose lines are said at its end; it goes from the cluster's list then.

    Ray may list it again as FAILED: its monitor, which looks once a second, takes a job without an entry whose process
    has ended for one that has died (dashboard/modules/job/job_manager.py, 2.60: `_monitor_job_internal`).

    Raises:
        ConnectionFailed: the cluster does not answer, or the job has not ended after `SHORT_SECONDS`; what it is for
            may have been done.
    """
    began = clock()
    while True:
        state = jobs.look_up(job_id)
        if state is not None and state.has_ended:
            closing = _say(jobs.logs(job_id), say, CLOSING_KEY)
            with suppress(ClusterError):  # the answer is there
                jobs.delete(job_id)
            return Ended(state, closing)
        if clock() - began > SHORT_SECONDS:
            raise ConnectionFailed(
                f"{jobs.address}: no answer within {SHORT_SECONDS:.0f} s: the head node may be too busy to start a job"
            )
        pause(TURN_SECONDS)


def put_away(jobs: Jobs, job_id: str) -> None:
    """Removes a job that has ended from the cluster's list; one that still runs is asked to end, and stays there."""
    with suppress(ClusterError):  # nobody waits for it any more
        jobs.stop(job_id)
        jobs.delete(job_id)


def _say(text: str, say: Callable[[str], None], closing_key: str) -> dict[str, Any] | None:
    """Says the lines for people; returns the object that a command prints at its end, if it is among them."""
    closing = None
    for line in lines_of(text):
        found = _object(line)
        if found is not None and closing_key in found:
            closing = found
        else:
            say(line)
    return closing


def _object(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
