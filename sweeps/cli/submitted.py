"""What the commands for submitted sweeps share: they follow a sweep, and run commands about it on its head node.

A command about a submitted sweep runs on the head node as a small Ray job: the same `qsweep` command, on the sweep's
folder. The job's lines, JSON line and exit code are the answer.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from sweeps.cli.shared import mistakes, say
from sweeps.config.uris import local_storage

if TYPE_CHECKING:
    from cluster.submission.following import Ended
    from cluster.submission.jobs import Job, Jobs, JobState

Address = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="The dashboard of the cluster that it was submitted to."),
]
_READS = ("status", "compare")
"""Verbs that change nothing, so that a lost answer does no harm."""


@dataclass(frozen=True)
class Answer:
    """The output of a command, and its exit code."""

    lines: tuple[str, ...]
    closing: dict[str, Any]
    """The JSON line."""
    exit_code: int


def end_with(answer: Answer, as_json: bool) -> NoReturn:
    """Prints the answer, and ends the command with its exit code."""
    for line in answer.lines:
        say(line)
    if as_json:
        print(json.dumps(answer.closing), flush=True)
    raise typer.Exit(answer.exit_code)


def ask_there(sweep: str, address: str, words: tuple[str, ...], as_json: bool) -> NoReturn:
    """Prints the answer of a command about a submitted sweep, and ends with its exit code. See `answer_there`."""
    with mistakes(""):
        from cluster.submission.jobs import connect

        answer = answer_there(connect(address), sweep, words)
    end_with(answer, as_json)


def answer_there(jobs: Jobs, sweep: str, words: tuple[str, ...]) -> Answer:
    """Runs a command about a submitted sweep on its head node, and returns the answer.

    Args:
        sweep: id of the sweep's job, or of a job that has resumed the sweep.
        words: status, compare, stop, add or extend, and the arguments after the sweep's id.

    Raises:
        ConnectionFailed, SubmissionFailed: the command was not submitted.
        typer.Exit: the answer is unknown; a message was printed.
    """
    from cluster.submission.jobs import Job
    from sweeps.report.summary import console

    state = jobs.find(sweep)
    verb, *rest = words
    storage = local_storage(state.metadata.get("storage", "results"))
    command = (verb, state.sweep, *rest, "--storage", storage, "--json")
    columns = {"COLUMNS": str(console().width)}
    job = Job(f"{sweep}-{verb}-{secrets.token_hex(3)}", command, {"of": sweep}, columns)
    lines: list[str] = []
    ended = _ended(jobs, job, state, lines)
    answer = Answer((*lines, *ended.state.end_lines), ended.closing or {}, ended.state.exit_code)
    if verb in _READS:
        answer = _before_the_folder(jobs, state, words, answer)
    return replace(answer, lines=(*answer.lines, *_from_here(jobs, state, answer)))


def follow_or_leave(jobs: Jobs, job_id: str, detach: bool, as_json: bool) -> None:
    """Says how to reach a sweep that was just submitted, and follows it unless `detach`."""
    _leave(jobs, job_id)
    if not detach:
        follow(jobs, job_id, as_json)
    elif as_json:
        print(json.dumps({"submission_id": job_id, "address": jobs.address, "detached": True}))


def follow(jobs: Jobs, job_id: str, as_json: bool) -> None:
    """Prints the output of a submitted sweep, and ends with its exit code. Ctrl-C leaves the sweep running."""
    from cluster.errors import ClusterError
    from cluster.submission import following
    from sweeps.steering.stop import Interrupted, raising_on_signals

    try:
        with raising_on_signals():
            state, closing = following.follow(jobs, job_id, say)
    except Interrupted as interrupted:
        _leave(jobs, job_id, f"{job_id} goes on without being followed")
        raise typer.Exit(interrupted.exit_code) from None
    except ClusterError as error:
        _leave(jobs, job_id, f"error: {error}")
        raise typer.Exit(1) from None
    for line in state.end_lines:
        say(line)
    if closing is not None:
        say("the folders and commands above are those of the cluster's head node")
    if as_json:
        print(json.dumps({**(closing or {}), "submission_id": job_id, "address": jobs.address}), flush=True)
    raise typer.Exit(state.exit_code)


def _leave(jobs: Jobs, job_id: str, line: str | None = None) -> None:
    if line is not None:
        say(line)
    say("see, follow and stop it with")
    say(f"  qsweep status {job_id} --address {jobs.address}")
    say(f"  qsweep logs {job_id} --address {jobs.address} --follow")
    say(f"  {stop_it(job_id, jobs.address)}")


def stop_it(job_id: str, address: str) -> str:
    """Returns the command that ends a submitted sweep."""
    return f"qsweep stop {job_id} --address {address}"


def say_not_known(jobs: Jobs, sweep: str) -> None:
    """Says how to see whether a submitted sweep has taken a request. Perhaps only the answer was lost."""
    say(f"it is not known whether the request was taken: qsweep status {sweep} --address {jobs.address} shows it")


def _ended(jobs: Jobs, job: Job, of: JobState, lines: list[str]) -> Ended:
    """Runs a small job and adds its lines to `lines`; returns how it ended. Ends this command if that is unknown."""
    from cluster.errors import ConnectionFailed
    from cluster.submission import package
    from cluster.submission.following import put_away, wait
    from sweeps.steering.stop import Interrupted, raising_on_signals

    # The package of the sweep's own job may be gone once the sweep has ended.
    brings = package.code() if of.package is None or of.has_ended else of.package
    try:
        with raising_on_signals():
            jobs.submit(job, brings)
            return wait(jobs, job.job_id, lines.append)
    except ConnectionFailed as error:
        say(f"error: {error}")
        code = 1
    except Interrupted as interrupted:
        code = interrupted.exit_code
    if job.words[0] not in _READS:
        say_not_known(jobs, of.job_id)
    put_away(jobs, job.job_id)
    raise typer.Exit(code)


def _before_the_folder(jobs: Jobs, state: JobState, words: tuple[str, ...], answer: Answer) -> Answer:
    """Replaces the answer if the sweep's job has not made the sweep's folder yet; else returns the given answer.

    Args:
        state: state of the sweep's job when the command was given.
        words: status or compare, and named trials. As in any sweep that lacks the trials, naming some is exit code 2.
    """
    from cluster.submission.jobs import MARK
    from sweeps.steering.local_sweeps import NO_SWEEP

    is_missing = answer.exit_code == 2 and any(NO_SWEEP in line for line in answer.lines)
    now = jobs.look_up(state.job_id) if is_missing and state.metadata.get(MARK) == "launch" else None
    if now is None or now.has_ended:
        return answer
    waits_for = f"its job, which is {now.status} and has not made the sweep's folder yet"
    verb, *named = words
    none: dict[str, object] = {"trials": []} if verb == "compare" else {"trials": 0, "states": {}}
    closing = {"sweep": state.job_id, "dir": None, "state": "RUNNING", **none, "waits_for": waits_for}
    return Answer((f"{state.job_id}: waits for {waits_for}",), closing, 2 if named else 0)


def _from_here(jobs: Jobs, state: JobState, answer: Answer) -> list[str]:
    """Says how this machine reaches a sweep whose job has ended. The head node that answered does not know this."""
    if not state.has_ended:
        return []
    if answer.closing.get("state") != "RUNNING":
        goes_on = any("qsweep resume" in line for line in answer.lines)
        return [f"from here: qsweep resume {state.job_id} --address {jobs.address}"] if goes_on else []
    running = jobs.running_instead(state)
    return [] if running is None else [f"the job {running} runs it: {stop_it(running, jobs.address)} ends it"]
