"""Follows what a job prints until it has ended, also where the cluster does not answer for a while."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cluster import timeouts
from cluster.errors import ClusterError, ConnectionFailed, NoSuchJob
from cluster.submission.jobs import Jobs, JobState, rest

MOST_RATE = 500_000
"""Most characters to fetch per second. Each look fetches all that was printed, so long output makes pauses longer."""
CLOSING_KEYS = {"dir", "findings"}
"""One of these is in the JSON object that --json prints of a sweep, or of the doctor's findings. Other lines of JSON
are a trainable's own."""
_OF_RAY = ("Running entrypoint for job ", "Runtime env is setting up.")


def lines_of(text: str) -> list[str]:
    """Returns the lines that a job has printed, without Ray's own."""
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line for line in lines if not any(words in line for words in _OF_RAY)]


def follow(
    jobs: Jobs,
    job_id: str,
    say: Callable[[str], None],
    is_short: bool = False,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = rest,
) -> tuple[JobState, dict[str, Any] | None]:
    """Says each line that a job prints for people; returns its last state, and the JSON object that --json prints.

    Raises:
        ConnectionFailed: the cluster has not answered for `timeouts.JOB_SILENT_SECONDS`, or at once if the job is
            short; or a short job has not ended after `timeouts.SHORT_JOB_SECONDS`. The job may go on.
        NoSuchJob: the cluster does not know the job any more.
    """
    said, closing, lost, start = 0, None, None, clock()
    while True:
        began, seconds = clock(), timeouts.SHORT_JOB_LOOK_SECONDS if is_short else timeouts.JOB_LOOK_SECONDS
        if is_short and began - start > timeouts.SHORT_JOB_SECONDS:
            late = f"no answer within {timeouts.SHORT_JOB_SECONDS:.0f} s"
            raise ConnectionFailed(f"{jobs.address}: {late}: the head node may be too busy to start a job")
        try:
            # In this order, so that the output of an ended job is whole.
            state = jobs.look_up(job_id)
            if state is None:
                raise NoSuchJob(f"{job_id}: {jobs.address} does not know this job any more")
            text = jobs.logs(job_id)
        except ConnectionFailed as error:
            if is_short:
                raise
            if lost is None:
                say("the connection is lost; the job goes on; trying to connect again")
            lost = began if lost is None else lost
            if clock() - lost > timeouts.JOB_SILENT_SECONDS:
                raise ConnectionFailed(
                    f"{jobs.address}: no answer for {timeouts.JOB_SILENT_SECONDS:.0f} s: {error}; the job may go on"
                ) from None
        else:
            lost = None
            whole = len(text) if state.has_ended else text.rfind("\n") + 1
            closing = _say(text[said:whole], say) or closing
            said = max(said, whole)
            if state.has_ended:
                return state, closing
            seconds = max(seconds, len(text) / MOST_RATE)
        pause(seconds)


def put_away(jobs: Jobs, job_id: str) -> None:
    """Removes an ended job from the cluster's list; asks a running job to end, and leaves it in the list.

    Ray may list the job again as FAILED: Ray's monitor looks once a second, and takes an ended job without an entry for
    a dead one (dashboard/modules/job/job_manager.py, 2.60: `_monitor_job_internal`).
    """
    with suppress(ClusterError):  # nobody waits for it any more
        jobs.stop(job_id)
        jobs.delete(job_id)


def _say(text: str, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Says the lines for people; returns the JSON object that a command prints at its end, if the text has it."""
    closing = None
    for line in lines_of(text):
        found = _object(line)
        if found is not None and CLOSING_KEYS & found.keys():
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
