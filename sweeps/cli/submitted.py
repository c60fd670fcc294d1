"""What the commands for submitted sweeps share: the cluster's address, and how a sweep is asked there."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sweeps.cli.shared import mistakes, say
from sweeps.config.uris import local_storage

if TYPE_CHECKING:
    from cluster.submission.following import Printed
    from cluster.submission.jobs import Job, Jobs, Seen
    from sweeps.steering.mailbox import AddPoint, ExtendSweep, StopTrial
    from sweeps.steering.remote import RemoteAnswer

    RemoteRequested = StopTrial | AddPoint | ExtendSweep

Address = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="The dashboard of the cluster that it was submitted to."),
]

_READS = ("status", "compare")
"""Verbs that ask for nothing: a lost answer is no more than that."""


def stop_it(job_id: str, address: str) -> str:
    """The command that ends a submitted sweep."""
    return f"qsweep stop {job_id} --address {address}"


def ask_there(sweep: str, address: str, words: tuple[str, ...], request: RemoteRequested, as_json: bool) -> NoReturn:
    """Asks the driver of a submitted sweep, prints its answer, and ends with the exit code that stands for it.

    Args:
        sweep: the id of its job, which is also the sweep's.
        words: stop, add or extend, and what follows the sweep's id.
        request: the same as a request.
    """
    with mistakes():
        from cluster.submission import connect

        answer = answer_there(connect(address), sweep, words, request)
    end_with(answer, as_json)


def read_there(sweep: str, address: str, words: tuple[str, ...], as_json: bool) -> NoReturn:
    """Prints what a job of some seconds reads of a submitted sweep on its head node, and ends with its exit code.

    Args:
        sweep: the id of its job, or of one that has resumed it.
        words: a verb of `_READS`, and what follows the sweep's id.
    """
    with mistakes(""):
        from cluster.submission import connect

        jobs = connect(address)
        seen = jobs.find(sweep)
        answer = _before_the_folder(jobs, sweep, seen, words, _of_job(jobs, sweep, seen, words))
    end_with(answer, as_json)


def end_with(answer: RemoteAnswer, as_json: bool) -> NoReturn:
    """Prints the answer to a request, and ends the command with its exit code."""
    for line in answer.lines:
        say(line)
    if as_json:
        print(json.dumps(answer.closing), flush=True)
    raise typer.Exit(answer.exit_code)


def answer_there(
    jobs: Jobs, sweep: str, words: tuple[str, ...], request: RemoteRequested | None, width: int = 140
) -> RemoteAnswer:
    """What a command about a submitted sweep answers: its driver does, or else a job of some seconds on its head node.

    Args:
        sweep: the id of its job, or of one that has resumed it.
        words: status, stop, add or extend, and what follows the sweep's id.
        request: the same as a request; None for status.
        width: columns to show a table in.

    Raises:
        ConnectionFailed, SubmissionFailed: nothing was asked.
        typer.Exit: it is not known what came of it, and that was said.
    """
    seen = jobs.find(sweep)
    answer = None
    if seen.node is not None and not seen.has_ended:
        answer = _of_driver(jobs, sweep, seen.node, request, width)
    if answer is None:
        answer = _of_job(jobs, sweep, seen, words)
        answer = _before_the_folder(jobs, sweep, seen, words, answer) if request is None else answer
        answer = answer.model_copy(update={"lines": (*answer.lines, *_more(jobs, sweep, seen, answer))})
    return answer


def _before_the_folder(
    jobs: Jobs, sweep: str, seen: Seen, words: tuple[str, ...], answer: RemoteAnswer
) -> RemoteAnswer:
    """The answer for a sweep whose job has not made its folder yet; else the one that is given.

    Args:
        words: status or compare, and the trials that are asked for: as in any sweep without them, this is exit code 2.
    """
    from cluster.submission.jobs import MARK
    from sweeps.steering.local_sweeps import NO_SWEEP
    from sweeps.steering.remote import RemoteAnswer

    is_missing = answer.exit_code == 2 and any(NO_SWEEP in line for line in answer.lines)
    now = jobs.look_up(sweep) if is_missing and seen.metadata.get(MARK) == "launch" else None
    if now is None or now.has_ended:
        return answer
    waits_for = f"its job, which is {now.status} and has not made the sweep's folder yet"
    verb, *named = words
    none: dict[str, object] = {"trials": []} if verb == "compare" else {"trials": 0, "states": {}}
    closing = {"sweep": sweep, "dir": None, "state": "RUNNING", **none, "waits_for": waits_for}
    return RemoteAnswer(lines=(f"{sweep}: waits for {waits_for}",), closing=closing, exit_code=2 if named else 0)


def _more(jobs: Jobs, sweep: str, seen: Seen, answer: RemoteAnswer) -> list[str]:
    """What the head node does not know that has answered: how the sweep is reached from here."""
    from cluster.submission.jobs import driving

    if not seen.has_ended:
        return []
    if answer.closing.get("state") != "RUNNING":
        goes_on = any("qsweep resume" in line for line in answer.lines)
        return [f"from here: qsweep resume {sweep} --address {jobs.address}"] if goes_on else []
    running = driving(jobs, sweep, seen)
    return [] if running is None else [f"the job {running} runs it: {stop_it(running, jobs.address)} ends it"]


def _of_driver(jobs: Jobs, sweep: str, node: str, request: RemoteRequested | None, width: int) -> RemoteAnswer | None:
    """The answer of a sweep's driver; None where none listens, and for a status that it does not tell."""
    import time

    from cluster.errors import ConnectionFailed
    from cluster.submission import remote_mailbox
    from sweeps.steering import mailbox
    from sweeps.steering.remote import RemoteAnswer, RemoteRequest
    from sweeps.steering.stop import Interrupted, raising_on_signals

    content = RemoteRequest(request=request, width=min(max(width, 20), 1000)).model_dump_json().encode()
    try:
        with raising_on_signals():
            text = remote_mailbox.ask(jobs, sweep, node, mailbox.new_id(time.time_ns()), content, patience())
        return None if text is None else RemoteAnswer.model_validate_json(text)
    except (ConnectionFailed, ValueError) as error:
        if request is None:
            return None
        say(f"error: {error}")
        code = 1
    except Interrupted as interrupted:
        code = interrupted.exit_code
    if request is not None:
        say_not_known(jobs, sweep)
    raise typer.Exit(code)


def patience() -> Callable[[], bool]:
    """An `is_over` for whoever waits for a driver's answer: it waits a moment, and says whether to wait no longer."""
    import threading
    import time

    from cluster.submission.remote_mailbox import ANSWER_SECONDS, ASKING_SECONDS

    deadline, pause = time.monotonic() + ANSWER_SECONDS, threading.Event()
    return lambda: pause.wait(ASKING_SECONDS) or time.monotonic() > deadline


def _of_job(jobs: Jobs, sweep: str, seen: Seen, words: tuple[str, ...]) -> RemoteAnswer:
    """The answer of a command that runs on a sweep's head node, as a job of some seconds."""
    from cluster.submission.following import Printed, exit_code
    from cluster.submission.jobs import Job
    from sweeps.steering.remote import RemoteAnswer

    verb, *rest = words
    storage = ("--storage", local_storage(seen.metadata.get("storage", "results")))
    asked = (verb, seen.metadata.get("sweep", sweep), *rest, *storage, "--json")
    job = Job(f"{sweep}-{verb}-{secrets.token_hex(3)}", sweep, asked, {"of": sweep})
    lines: list[str] = []
    printed = Printed(lines.append)
    answered = _ended(jobs, job, seen, printed)
    lines += end_lines(job.job_id, answered)
    return RemoteAnswer(lines=tuple(lines), closing=printed.closing or {}, exit_code=exit_code(answered))


def end_lines(job_id: str, seen: Seen) -> list[str]:
    """Says how a job ended that Ray ended, or could not start; nothing of one that ended by itself."""
    if seen.exit_code is not None:
        return []
    return [f"{job_id}: {seen.status}{f': {seen.message}' if seen.message else ''}"]


def say_not_known(jobs: Jobs, sweep: str) -> None:
    """Says how to see whether a request has come to a submitted sweep; what was lost may have been the answer alone."""
    say(f"it is not known whether the request was taken: qsweep status {sweep} --address {jobs.address} shows it")


def _ended(jobs: Jobs, job: Job, of: Seen, printed: Printed) -> Seen:
    """What became of a job that is submitted now; ends the command where that is not known."""
    from cluster.errors import ConnectionFailed
    from cluster.submission.following import give_up, wait
    from sweeps.steering.stop import Interrupted, raising_on_signals

    try:
        with raising_on_signals():
            _submit(jobs, job, of)
            return wait(jobs, job.job_id, printed)
    except ConnectionFailed as error:
        say(f"error: {error}")
        code = 1
    except Interrupted as interrupted:
        code = interrupted.exit_code
    if job.words[0] not in _READS:
        say_not_known(jobs, job.sweep_id)
    if not give_up(jobs, job.job_id):
        say(f"a job may be left in Ray's list: ray job delete {job.job_id} --address {jobs.address} removes it")
    raise typer.Exit(code)


def _submit(jobs: Jobs, job: Job, of: Seen) -> None:
    """Submits with the package of the sweep; with the code alone when that may be gone with the sweep's end."""
    from cluster.submission import package

    if of.package is not None and not of.has_ended:
        jobs.submit(job, of.package)
        return
    with tempfile.TemporaryDirectory(prefix="qsweep-submit-") as folder:
        archive = Path(folder) / "code.zip"
        package.write(archive, package.code())
        jobs.submit(job, archive)
