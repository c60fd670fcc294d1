"""A dashboard of the test's own, which answers Ray's client of the Jobs API as a head node would."""

from __future__ import annotations

import io
import json
import re
import shlex
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import web_servers

Answer = tuple[int, Any]
"""HTTP status and body."""
LOST: Answer = (0, None)
"""No answer: the connection breaks."""


class Dashboard:
    """Takes jobs, of which each ends at once as `runs` says; keeps what was asked and sent."""

    def __init__(self) -> None:
        self.address = ""
        self.asked: list[tuple[str, str]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        """Id -> what is known of a job."""
        self.submitted: list[dict[str, Any]] = []
        """All jobs that were taken, also those that are no longer listed."""
        self.logs: dict[str, str] = {}
        self.packages: dict[str, bytes] = {}
        self.runs: Callable[[str], dict[str, Any]] = lambda _job_id: {"status": "SUCCEEDED", "driver_exit_code": 0}
        """What becomes of a job that is submitted."""
        self.answers: Callable[[str, str], Answer | None] = lambda _method, _path: None
        """Goes before all other answers."""
        self.loses_answers = 0
        """How many of the next jobs are taken without an answer."""

    def knows(self, job_id: str, status: str = "RUNNING", verb: str = "launch", **metadata: str) -> dict[str, Any]:
        """A job that was submitted before."""
        known = {"storage": "results", **metadata} if verb in ("launch", "resume") else metadata
        self.jobs[job_id] = {
            "status": status, "metadata": {"qsweep": verb, **known}, "runtime_env": {"working_dir": "gcs://known.zip"},
        }  # fmt: skip
        return self.jobs[job_id]

    def prints(self, text: str, code: int | None = 0) -> None:
        """What each job prints that is submitted from now on, and its exit code; None where Ray ends it."""

        def run(job_id: str) -> dict[str, Any]:
            self.logs[job_id] = text
            return {"status": "FAILED" if code != 0 else "SUCCEEDED", "driver_exit_code": code}

        self.runs = run

    def words(self) -> list[str]:
        """The command of the last job: its id, and what follows `qsweep`."""
        found = re.search(r"cluster\.submission\.on_node (.*?); done", self.submitted[-1]["entrypoint"])
        assert found is not None
        return shlex.split(found[1])

    def brought(self, number: int = -1) -> dict[str, bytes]:
        """Path -> content of what a job has brought along."""
        name = self.submitted[number]["runtime_env"]["working_dir"].removeprefix("gcs://")
        with zipfile.ZipFile(io.BytesIO(self.packages[name])) as package:
            return {each: package.read(each) for each in package.namelist()}

    def reply(self, method: str, path: str, sent: bytes) -> Answer:
        self.asked.append((method, path))
        given = self.answers(method, path)
        if given is not None:
            return given
        kind, *rest = path.removeprefix("/api/").strip("/").split("/")
        if kind == "version":
            return 200, {"version": "4", "ray_version": "2.60.0", "ray_commit": "x"}
        if kind == "packages":
            return self._package(method, rest[-1], sent)
        if method == "POST" and not rest:
            return self._take(json.loads(sent))
        if not rest:
            driver = {"submission_id": None, "job_id": "01000000", "status": "RUNNING", "type": "DRIVER"}
            return 200, [{"entrypoint": "x", **driver}, *(self._details(each) for each in self.jobs)]
        return self._of_job(method, *rest)

    def _package(self, method: str, name: str, sent: bytes) -> Answer:
        if method == "PUT":
            self.packages[name] = sent
        return (200, {}) if name in self.packages else (404, "no such package")

    def _take(self, body: dict[str, Any]) -> Answer:
        job_id = body["submission_id"]
        if job_id in self.jobs:
            return 500, f"Traceback ...\nValueError: Job with submission_id {job_id} already exists."
        self.submitted.append(body)
        self.jobs[job_id] = {**body, **self.runs(job_id)}
        self.loses_answers -= 1
        return LOST if self.loses_answers >= 0 else (200, dict.fromkeys(("job_id", "submission_id"), job_id))

    def _of_job(self, method: str, job_id: str, what: str = "") -> Answer:
        if job_id not in self.jobs:
            return 404, f"Job {job_id} does not exist"
        if what == "logs":
            return 200, {"logs": self.logs.get(job_id, "")}
        if what == "stop":
            return 200, {"stopped": self.jobs[job_id]["status"] == "RUNNING"}
        if method == "DELETE" and self.jobs[job_id]["status"] == "RUNNING":
            return 500, "RuntimeError: it is in a non-terminal state"
        if method == "DELETE":
            del self.jobs[job_id]
            return 200, {"deleted": True}
        return 200, self._details(job_id)

    def _details(self, job_id: str) -> dict[str, Any]:
        return {"type": "SUBMISSION", "entrypoint": "x", "submission_id": job_id, **self.jobs[job_id]}


@contextmanager
def dashboard() -> Iterator[Dashboard]:
    """Serves one on a free port of this machine."""

    def answer(request: web_servers.Request) -> tuple[int, str]:
        status, body = board.reply(request.method, request.path, request.body)
        return status, body if isinstance(body, str) else json.dumps(body)

    board = Dashboard()
    with web_servers.answering_by(answer) as address:
        board.address = f"http://{address}"
        yield board
