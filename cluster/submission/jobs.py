"""Submits and reads the jobs of a Ray cluster through its dashboard, from any machine.

Only `connect` imports Ray: a mistake in a command is told before.
"""

from __future__ import annotations

import os
import re
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cluster import timeouts
from cluster.errors import ClusterError, NoSuchJob, ServiceFailed, SubmissionFailed
from cluster.submission import package
from cluster.submission.on_node import ENTRY, HOOK

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from cluster.submission.ray_client import Client

MARK = "qsweep"
"""Key of a job's metadata whose value is the job's `qsweep` command."""
rest: Callable[[float], object] = threading.Event().wait
"""Waits for the given seconds."""
_NO_AGENT = "No available agent to submit job"
"""ray/dashboard/modules/job/job_head.py, 2.60: `submit_job`, after 10 s."""
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_USER = re.compile(r"^([A-Za-z][\w+.-]*://)?.*@", re.DOTALL)
"""A password may hold / and ?, so all before the last @ counts."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# Takes the first python with Ray in the PATH with which the head node's Ray was started.
_SHELL = """\
for python in python python3; do \
"$python" -c 'import sys, importlib.util as i; sys.exit(i.find_spec("ray") is None)' 2>/dev/null && \
exec "$python" -P -m {command}; done; \
echo "error: no python with Ray in PATH ($PATH): start Ray with the bin folder of its environment first in PATH" >&2; \
exit 2"""


@dataclass(frozen=True)
class Job:
    """A `qsweep` command to run on the cluster."""

    job_id: str
    """Also the id of the sweep that it launches."""
    words: tuple[str, ...]
    """The words after `qsweep`."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def entrypoint(self) -> str:
        """Returns the job's shell command."""
        return _SHELL.format(command=shlex.join([ENTRY, self.job_id, *self.words]))


@dataclass(frozen=True)
class JobState:
    """A job's state on the cluster."""

    job_id: str
    status: str
    driver_exit_code: int | None = None
    """None while the job runs, and if Ray ended it."""
    message: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    package: str | None = None
    """Address of the package that the job has brought."""

    @property
    def is_sweep(self) -> bool:
        """Tells whether the job runs a sweep. Short jobs and jobs of other programs do not."""
        return self.metadata.get(MARK) in ("launch", "resume")

    @property
    def sweep(self) -> str:
        """Returns the job's sweep: the word that was resumed, else the job's own id."""
        return self.metadata.get("sweep", self.job_id)

    @property
    def has_ended(self) -> bool:
        """Tells whether nothing of the job runs any more."""
        return self.status in _ENDED

    @property
    def exit_code(self) -> int:
        """Returns the command's exit code; 143 (SIGTERM) if Ray stopped the job, 1 if Ray does not know the code."""
        code = self.driver_exit_code
        if code is not None:
            return code if code >= 0 else 128 - code
        return 143 if self.status == "STOPPED" else 1

    @property
    def end_lines(self) -> list[str]:
        """Returns a line about how Ray ended the job, or could not start it; nothing if the job ended by itself."""
        if self.driver_exit_code is not None:
            return []
        return [f"{self.job_id}: {self.status}{f': {self.message}' if self.message else ''}"]


class Jobs:
    """The jobs of one cluster.

    Methods raise ConnectionFailed if the cluster does not answer or denies access, and SubmissionFailed if it refuses.
    """

    def __init__(self, address: str, client: Client) -> None:
        self.address = address
        self._client = client

    @property
    def other_version(self) -> str | None:
        """Returns the version of the cluster's Ray if its minor version differs from this machine's, else None."""
        return None if self._client.is_same_version else self._client.version

    def submit(
        self,
        job: Job,
        brings: Mapping[str, bytes | Path] | str,
        pause: Callable[[float], object] = rest,
        clock: Callable[[], float] = time.monotonic,
    ) -> bool:
        """Submits a job; False if the cluster has it already, after a lost answer or when a command is repeated.

        Args:
            job: a job of the same id is the same job if its metadata are equal.
            brings: path in the package -> content or file here; or the address of a package that the cluster has.

        Raises:
            ConnectionFailed: it is not known whether the job was submitted.
            SubmissionFailed: the job was not submitted.
        """
        if not isinstance(brings, str):
            with tempfile.TemporaryDirectory(prefix="qsweep-submit-") as folder:
                archive = Path(folder) / "package.zip"
                package.write(archive, brings)
                return self.submit(job, str(archive), pause, clock)
        metadata, began = {MARK: job.words[0], **job.metadata}, clock()
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(timeouts.JOB_STOP_SECONDS), **job.variables}
        while True:
            try:
                self._client.submit_job(
                    entrypoint=job.entrypoint,
                    submission_id=job.job_id,
                    runtime_env={
                        "working_dir": brings, "worker_process_setup_hook": HOOK, "env_vars": variables,
                    },
                    metadata=dict(metadata),
                )  # fmt: skip
                return True
            except ClusterError as error:
                there = self.look_up(job.job_id)
                if there is not None and any(there.metadata.get(key) != value for key, value in metadata.items()):
                    raise SubmissionFailed(
                        f"--submission-id: {job.job_id} is the id of another job of this cluster: give a new one"
                    ) from None
                if there is not None:
                    return False
                if _NO_AGENT not in str(error) or clock() - began >= timeouts.AGENT_START_SECONDS:
                    # The cluster has answered, and knows no such job.
                    raise SubmissionFailed(str(error)) if isinstance(error, ServiceFailed) else error from None
            pause(timeouts.AGENT_AGAIN_SECONDS)

    def look_up(self, job_id: str) -> JobState | None:
        """Returns the state of a job; None if the cluster does not know the job."""
        try:
            return _state(job_id, self._client.get_job_info(job_id))
        except NoSuchJob:
            return None

    def find(self, job_id: str) -> JobState:
        """Returns a sweep's job; raises SubmissionFailed if no sweep's job has this id."""
        check_id(job_id)
        state = self.look_up(job_id)
        if state is None:
            raise SubmissionFailed(
                f"{job_id}: {self.address} knows no job of this id; a cluster forgets its jobs when its head node is "
                "started again (ray job list shows them)"
            )
        if not state.is_sweep:
            raise SubmissionFailed(f"{job_id}: is no sweep: another program has submitted this job")
        return state

    def running_instead(self, ended: JobState) -> str | None:
        """Returns the id of the job that now runs the sweep of an ended job; None if none is known.

        Does not look for a sweep that was resumed by its name or folder: another sweep may have that name by now.
        """
        try:
            listed = {job.submission_id: _state(job.submission_id, job) for job in self._client.list_jobs()}
        except ClusterError:  # nothing depends on it: the lock of the sweep's folder lets in one driver
            return None
        running = [job for job in listed.values() if job.is_sweep and not job.has_ended]
        return next((job.job_id for job in running if ended.sweep in listed and job.sweep == ended.sweep), None)

    def stop(self, job_id: str) -> bool:
        """Asks a job to end in order; False if it has ended already."""
        return bool(self._client.stop_job(job_id))

    def logs(self, job_id: str) -> str:
        """Returns all that a job has printed."""
        return str(self._client.get_job_logs(job_id))

    def delete(self, job_id: str) -> None:
        """Removes an ended job from the cluster's list."""
        self._client.delete_job(job_id)


def connect(address: str) -> Jobs:
    """Connects to the cluster whose dashboard is at the address.

    Raises:
        ConnectionFailed: the dashboard does not answer, or wants another token.
        SubmissionFailed: the text is no address of a dashboard.
    """
    address = check_address(address)
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        # Without this Ray sends no token, and says that there is none. Ray reads the variable when it is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from cluster.submission.ray_client import Client

    return Jobs(address, Client(address))


def check_id(job_id: str) -> None:
    """Raises SubmissionFailed if the text cannot be the id of a job and a sweep."""
    if not is_id(job_id):
        raise SubmissionFailed(
            f"--submission-id: {job_id!r} must be letters, digits, dots, dashes and underscores, at most 128, and "
            "begin with a letter or a digit"
        )


def is_id(text: str) -> bool:
    """Tells whether the text can be the id of a job and a sweep."""
    return _ID.fullmatch(text) is not None


def check_address(address: str) -> str:
    """Returns a dashboard's address without a final slash; raises SubmissionFailed if the text is no such address."""
    try:
        parts = urlsplit(address)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right or "@" in parts.netloc or parts.query or parts.fragment:
        # Without the parts that may be secret: a user, a password, parameters.
        shown = re.sub(r"([?#]).*", r"\1***", _USER.sub(r"\1***@", address), flags=re.DOTALL)
        raise SubmissionFailed(
            f"--address: {shown!r} must be that of the cluster's dashboard, without a user, ? and #: http://HOST:8265"
        )
    return address.rstrip("/")


def _state(job_id: str, details: JobDetails) -> JobState:
    return JobState(
        job_id=job_id,
        status=str(details.status.value),
        driver_exit_code=details.driver_exit_code,
        message=details.message or "",
        metadata=details.metadata or {},
        package=(details.runtime_env or {}).get("working_dir"),
    )
