"""What the commands for submitted sweeps share: they follow a sweep, and run commands about it on its head node.

A command about a submitted sweep runs on the head node as a small Ray job: the same `qsweep` command, on the sweep's
folder. The job's lines, JSON line and exit code are the answer.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from sweeps.cli.shared import ending_on_signals, mistakes, print_result, say

if TYPE_CHECKING:
    from cluster.submission.jobs import Job, Jobs, JobState

Address = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="The dashboard of the cluster that it was submitted to."),
]
_READS = ("status", "compare")
"""Verbs that change nothing, so that a lost answer does no harm."""


@dataclass(frozen=True)
class CommandOutput:
    """The output of a command, and its exit code."""

    lines: tuple[str, ...]
    closing: dict[str, Any]
    """The JSON line."""
    exit_code: int


def end_with(answer: CommandOutput, as_json: bool) -> NoReturn:
    """Prints the answer, a refusal or a failure on stderr, and ends the command with its exit code."""
    for line in answer.lines:
        print_result(line, as_json or bool(answer.exit_code))
    if as_json:
        print(json.dumps(answer.closing), flush=True)
    raise typer.Exit(answer.exit_code)


def ask_there(address: str | None, as_json: bool, verb: str, sweep: str, *words: str) -> None:
    """Ends the command with the answer of the cluster's head node; does nothing without an address.

    Each verb about a submitted sweep calls this function before it looks on this machine. See `answer_there`.
    """
    if address is not None:
        with mistakes(""):
            from cluster.submission.jobs import connect

            answer = answer_there(connect(address), verb, sweep, *words)
        end_with(answer, as_json)


def answer_there(jobs: Jobs, verb: str, sweep: str, *words: str) -> CommandOutput:
    """Runs a command about a submitted sweep on its head node, and returns the answer.

    Args:
        verb: the command.
        sweep: id of the sweep's job, or of a job that has resumed the sweep.
        words: the arguments after the sweep's id.

    Raises:
        SubmissionFailed: the command was not submitted.
        typer.Exit: the answer is unknown; a message was printed.
    """
    from cluster.timeouts import JOB_STOP_SECONDS

    seen = f"qsweep status {sweep} --address {jobs.address} shows it"
    not_known = f"it is not known whether the request was taken: {seen}"
    with ending_if_lost("the sweep may go on" if verb in _READS else not_known):
        state = jobs.find(sweep)
        if (verb, *words) == ("stop",) and not state.has_ended and jobs.stop(sweep):
            # Ray sends the driver SIGTERM, which has the effect of a request, also before there is a folder.
            message = f"stopping: trials are saved at their next step; after {JOB_STOP_SECONDS} s Ray ends what is left"
            return CommandOutput((message,), {"submission_id": sweep, "accepted": True, "message": message}, 0)
        answer = _answer(jobs, state, verb, *words)
        if answer.exit_code == 2 and verb not in _READS and not answer.closing:
            refusal = {"submission_id": sweep, "accepted": False, "message": "; ".join(answer.lines)}
            answer = replace(answer, closing=refusal)
        return replace(answer, lines=(*answer.lines, *_from_here(jobs, state, answer)))


def run(
    jobs: Jobs, job: Job, brings: Mapping[str, bytes | Path] | str, tell: Callable[[str], None], is_short: bool
) -> CommandOutput:
    """Runs a job, and removes it from the cluster's list; gives its lines to `tell`. Returns the rest of its answer."""
    from cluster.submission import following

    try:
        jobs.submit(job, brings)
        state, closing = following.follow(jobs, job.job_id, tell, is_short)
    finally:
        following.put_away(jobs, job.job_id)
    return CommandOutput(tuple(state.end_lines), closing or {}, state.exit_code)


@contextmanager
def ending_if_lost(*lines: str) -> Iterator[None]:
    """Ends the command, with lines for people, if a signal comes or the cluster does not answer or know its job.

    The exit code is that of the signal, or 1: the cluster may have done what it was asked to do.
    """
    from cluster.errors import ConnectionFailed, NoSuchJob

    with ending_on_signals(*lines):
        try:
            yield
        except (ConnectionFailed, NoSuchJob) as error:
            for line in (f"error: {error}", *lines):
                say(line)
            raise typer.Exit(1) from None


def follow_or_leave(jobs: Jobs, job_id: str, detach: bool, as_json: bool) -> None:
    """Says how to reach a sweep that was just submitted, and follows it unless `detach`."""
    for line in _ways(jobs, job_id):
        say(line)
    if not detach:
        follow(jobs, job_id, as_json)
    elif as_json:
        print(json.dumps({"submission_id": job_id, "address": jobs.address, "detached": True}))


def follow(jobs: Jobs, job_id: str, as_json: bool) -> None:
    """Prints the output of a submitted sweep, and ends with its exit code. Ctrl-C leaves the sweep running."""
    from cluster.submission import following

    with mistakes(""), ending_if_lost("this ends the following, and not the sweep", *_ways(jobs, job_id)):
        state, closing = following.follow(jobs, job_id, say)
    there = [] if closing is None else ["the folders and commands above are those of the cluster's head node"]
    document = {**(closing or {}), "submission_id": job_id, "address": jobs.address}
    end_with(CommandOutput((*state.end_lines, *there), document, state.exit_code), as_json)


def _ways(jobs: Jobs, job_id: str) -> tuple[str, ...]:
    asked = f"{job_id} --address {jobs.address}"
    verbs = (f"status {asked}", f"logs {asked} --follow", f"stop {asked}")
    return ("see, follow and stop it with", *(f"  qsweep {verb}" for verb in verbs))


def _answer(jobs: Jobs, of: JobState, verb: str, *words: str) -> CommandOutput:
    """Runs the command, on the folder of the job's sweep. While the job has not made the folder, says so instead."""
    from cluster.submission import package
    from cluster.submission.jobs import MARK, Job
    from sweeps.report.summary import console
    from sweeps.steering.local_sweeps import NO_SWEEP

    command = (verb, of.sweep, *words, "--storage", of.metadata.get("storage", "results"), "--json")
    columns = {"COLUMNS": str(console().width)}
    job = Job(f"{of.job_id}-{verb}-{secrets.token_hex(3)}", command, {"of": of.job_id}, columns)
    # The package of the sweep's own job may be gone once the sweep has ended.
    brings = package.code() if of.package is None or of.has_ended else of.package
    lines: list[str] = []
    answer = run(jobs, job, brings, lines.append, is_short=True)
    is_missing = answer.exit_code == 2 and any(NO_SWEEP in line for line in lines)
    now = jobs.look_up(of.job_id) if is_missing and of.metadata.get(MARK) == "launch" else None
    if now is None or now.has_ended:
        return replace(answer, lines=(*lines, *answer.lines))
    waits_for = f"its job, which is {now.status} and has not made the sweep's folder yet"
    none: dict[str, object] = {"trials": [] if verb == "compare" else 0, "states": {}}
    closing = {"sweep": of.job_id, "dir": None, "state": "RUNNING", **none, "waits_for": waits_for}
    # As in any sweep that lacks the trials, naming some is a mistake.
    return CommandOutput((f"{of.job_id}: waits for {waits_for}",), closing, 2 if words else 0)


def _from_here(jobs: Jobs, state: JobState, answer: CommandOutput) -> list[str]:
    """Says how this machine reaches a sweep whose job has ended. The head node that answered does not know this."""
    if not state.has_ended:
        return []
    if answer.closing.get("state") != "RUNNING":
        goes_on = any("qsweep resume" in line for line in answer.lines)
        return [f"from here: qsweep resume {state.job_id} --address {jobs.address}"] if goes_on else []
    running = jobs.running_instead(state)
    return (
        []
        if running is None
        else [f"the job {running} runs it: qsweep stop {running} --address {jobs.address} ends it"]
    )
