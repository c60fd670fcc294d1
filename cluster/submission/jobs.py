"""The jobs of a Ray cluster, asked through its dashboard from a machine that need not be part of it.

Ray itself is imported by `connect` alone: a mistake in a command is told before.
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

from cluster.errors import ClusterError, NoSuchJob, ServiceFailed, SubmissionFailed
from cluster.submission import package
from cluster.submission.on_node import ENTRY, HOOK

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from cluster.submission.ray_client import Client

MARK = "qsweep"
"""The key of a job's metadata that says what of this project it is: its command."""
STOP_SECONDS = 900
"""How long Ray lets a job that was asked to stop save its trials and deliver to MLflow before it kills it. Ray's own
time is 3 s (dashboard/modules/job/job_supervisor.py, 2.60)."""
START_SECONDS = 60.0
"""How long a head node that has just started may take to have its agent, which starts jobs."""
RETRY_SECONDS = 2.0
"""Pause before such a head node is asked again."""
rest: Callable[[float], object] = threading.Event().wait
"""Waits so many seconds."""
_NO_AGENT = "No available agent to submit job"
"""ray/dashboard/modules/job/job_head.py, 2.60: `submit_job`, after 10 s."""
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_USER = re.compile(r"^([A-Za-z][\w+.-]*://)?.*@", re.DOTALL)
"""A password may hold / and ?, so all before the last @ counts."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# The first python that knows Ray, of those that the head node's Ray was started with.
_SHELL = """\
for python in python python3; do \
"$python" -c 'import sys, importlib.util as i; sys.exit(i.find_spec("ray") is None)' 2>/dev/null && \
exec "$python" -P -m {command}; done; \
echo "error: no python with Ray in PATH ($PATH): start Ray with the bin folder of its environment first in PATH" >&2; \
exit 2"""


@dataclass(frozen=True)
class Job:
    """A command of `qsweep` that is to run on the cluster."""

    job_id: str
    """Also the id of the sweep that it launches."""
    words: tuple[str, ...]
    """What follows `qsweep`."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the job."""

    @property
    def entrypoint(self) -> str:
        """The shell command."""
        return _SHELL.format(command=shlex.join([ENTRY, self.job_id, *self.words]))


@dataclass(frozen=True)
class JobState:
    """What the cluster says of a job."""

    job_id: str
    status: str
    driver_exit_code: int | None = None
    """None while it runs, and when Ray ended it."""
    message: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    package: str | None = None
    """Address of what it has brought along."""

    @property
    def is_sweep(self) -> bool:
        """It runs a sweep, and is no other program's, and no question of some seconds."""
        return self.metadata.get(MARK) in ("launch", "resume")

    @property
    def sweep(self) -> str:
        """Its sweep: the id of the job itself, or what was resumed."""
        return self.metadata.get("sweep", self.job_id)

    @property
    def has_ended(self) -> bool:
        """Nothing of the job runs any more."""
        return self.status in _ENDED

    @property
    def exit_code(self) -> int:
        """Its command's; 143, that of SIGTERM, when Ray was asked to stop the job, and 1 when Ray could not say."""
        code = self.driver_exit_code
        if code is not None:
            return code if code >= 0 else 128 - code
        return 143 if self.status == "STOPPED" else 1

    @property
    def end_lines(self) -> list[str]:
        """Says how a job ended that Ray ended, or could not start; nothing of one that ended by itself."""
        if self.driver_exit_code is not None:
            return []
        return [f"{self.job_id}: {self.status}{f': {self.message}' if self.message else ''}"]


class Jobs:
    """The jobs of one cluster.

    Each method raises ConnectionFailed when the cluster does not answer or lets nobody in, and SubmissionFailed when
    it refuses.
    """

    def __init__(self, address: str, client: Client) -> None:
        """See `connect`."""
        self.address = address
        self._client = client

    @property
    def other_version(self) -> str | None:
        """Version of the cluster's Ray where it is another minor version than that of this machine."""
        return None if self._client.is_same_version else self._client.version

    def submit(
        self,
        job: Job,
        brings: Mapping[str, bytes | Path] | str,
        pause: Callable[[float], object] = rest,
        clock: Callable[[], float] = time.monotonic,
    ) -> bool:
        """Submits a job; False when it was there already: a lost answer, or the same command twice, starts no second.

        Args:
            job: its metadata tell whether one of the same id is the same.
            brings: path in the package -> content or file here; or the address of a package that the cluster has.

        Raises:
            ConnectionFailed: it is not known whether the job was submitted.
            SubmissionFailed: it was not.
        """
        if isinstance(brings, str):
            return self._submit(job, brings, pause, clock)
        with tempfile.TemporaryDirectory(prefix="qsweep-submit-") as folder:
            archive = Path(folder) / "package.zip"
            package.write(archive, brings)
            return self._submit(job, str(archive), pause, clock)

    def _submit(self, job: Job, working_dir: str, pause: Callable[[float], object], clock: Callable[[], float]) -> bool:
        metadata, began = {MARK: job.words[0], **job.metadata}, clock()
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **job.variables}
        while True:
            try:
                self._client.submit_job(
                    entrypoint=job.entrypoint,
                    submission_id=job.job_id,
                    runtime_env={
                        "working_dir": working_dir, "worker_process_setup_hook": HOOK, "env_vars": variables,
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
                if _NO_AGENT not in str(error) or clock() - began >= START_SECONDS:
                    # The cluster has answered, and knows no such job.
                    raise SubmissionFailed(str(error)) if isinstance(error, ServiceFailed) else error from None
            pause(RETRY_SECONDS)

    def look_up(self, job_id: str) -> JobState | None:
        """What the cluster says of a job; None when it does not know it."""
        try:
            return _state(job_id, self._client.get_job_info(job_id))
        except NoSuchJob:
            return None

    def find(self, job_id: str) -> JobState:
        """A sweep's job; raises SubmissionFailed when there is none of this id."""
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
        """Id of the job that runs the sweep of a job that has ended; None where none is known.

        A sweep that was resumed by its name or folder is not looked for: another one may have that name by now.
        """
        try:
            listed = {job.submission_id: _state(job.submission_id, job) for job in self._client.list_jobs()}
        except ClusterError:  # nothing depends on it: the lock of the sweep's folder lets in one driver
            return None
        running = [job for job in listed.values() if job.is_sweep and not job.has_ended]
        return next((job.job_id for job in running if ended.sweep in listed and job.sweep == ended.sweep), None)

    def stop(self, job_id: str) -> bool:
        """Asks a job to end in order; False when it has ended already."""
        return bool(self._client.stop_job(job_id))

    def logs(self, job_id: str) -> str:
        """All that a job has printed."""
        return str(self._client.get_job_logs(job_id))

    def delete(self, job_id: str) -> None:
        """Removes a job that has ended from the cluster's list."""
        self._client.delete_job(job_id)


def connect(address: str) -> Jobs:
    """The jobs of the cluster whose dashboard is at the address.

    Raises:
        ConnectionFailed: it does not answer, or wants another token.
        SubmissionFailed: this is no address of a dashboard.
    """
    address = check_address(address)
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        # Else Ray sends no token, and says that there is none. It reads this when it is imported, so not before here.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from cluster.submission.ray_client import Client

    return Jobs(address, Client(address))


def check_id(job_id: str) -> None:
    """Raises SubmissionFailed when the text cannot be the id of a job and a sweep."""
    if not is_id(job_id):
        raise SubmissionFailed(
            f"--submission-id: {job_id!r} must be letters, digits, dots, dashes and underscores, at most 128, and "
            "begin with a letter or a digit"
        )


def is_id(text: str) -> bool:
    """Whether the text can be the id of a job and a sweep."""
    return _ID.fullmatch(text) is not None


def check_address(address: str) -> str:
    """The address without a slash at its end; raises SubmissionFailed when it is not that of a dashboard."""
    try:
        parts = urlsplit(address)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
    if not is_right or "@" in parts.netloc or parts.query or parts.fragment:
        # Without what may be secret in it: a user, a password, parameters.
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
