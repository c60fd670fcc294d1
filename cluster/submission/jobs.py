"""The jobs of a Ray cluster, asked through its dashboard from a machine that need not be part of it."""

from __future__ import annotations

import logging
import os
import shlex
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from cluster.errors import ClusterError, ConnectionFailed, ServiceFailed, SubmissionFailed, first_cause, not_let_in
from cluster.submission import STOP_SECONDS, check_address, check_id
from cluster.submission.on_node import ENTRY, HOOK

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
UPLOAD_SECONDS = 600.0
MARK = "qsweep"
"""The key of a job's metadata that says what of this project it is: its command."""
TRIES = 3
RETRY_SECONDS = 2.0
"""Pause before a request that failed is sent again."""
START_SECONDS = 60.0
"""How long a head node that has just started may take to have its agent, which starts jobs."""
_NO_AGENT = "No available agent to submit job"
"""ray/dashboard/modules/job/job_head.py, 2.60: `submit_job`, after 10 s."""
BACKOFF_SECONDS = (0.5, 1.0, 2.0)
"""Pauses before a request is sent again that a proxy answered, because the dashboard behind it did not."""
_FAILURES = 500
"""The least HTTP status that says that the server fails; of these the proxy's own are:"""
_PROXYS = (requests.codes.bad_gateway, requests.codes.unavailable, requests.codes.gateway_timeout)
_LACKING = requests.codes.not_found
_SUBMIT = ("POST", "/api/jobs/")
"""The request that is not sent again here: `Jobs.submit` looks first whether it was taken."""
_NEVER = threading.Event()
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
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
    sweep_id: str
    words: tuple[str, ...]
    """What follows `qsweep`."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of its environment."""

    @property
    def entrypoint(self) -> str:
        """The shell command."""
        return _SHELL.format(command=shlex.join([ENTRY, self.sweep_id, *self.words]))


@dataclass(frozen=True)
class Seen:
    """What the cluster says of a job."""

    status: str
    exit_code: int | None
    """None while it runs, and when Ray ended it."""
    message: str
    metadata: Mapping[str, str]
    package: str | None
    node: str | None = None
    """Id of the node on which it runs; None before it has started."""

    @property
    def is_sweep(self) -> bool:
        """It runs a sweep, and is no other program's, and no question of some seconds."""
        return self.metadata.get(MARK) in ("launch", "resume")

    def sweep(self, job_id: str) -> str:
        """Its sweep: the id of the job itself, or what was resumed."""
        return self.metadata.get("sweep", job_id)

    @property
    def has_ended(self) -> bool:
        """Nothing of the job runs any more."""
        return self.status in _ENDED


class _Client(JobSubmissionClient):
    """Ray's client, which else waits for ever for a host that does not answer, and gives up at a proxy's first error.

    All its requests may be sent twice: the second one does nothing more, except the one that submits.
    """

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        answer = UPLOAD_SECONDS if method == "PUT" else ANSWER_SECONDS
        options = {"timeout": (CONNECT_SECONDS, answer), **options}
        response: requests.Response = super()._do_request(method, endpoint, **options)
        if (method, endpoint) == _SUBMIT:
            return response
        for seconds in BACKOFF_SECONDS:
            if response.status_code not in _PROXYS:
                break
            _NEVER.wait(seconds)
            response = super()._do_request(method, endpoint, **options)
        if response.status_code >= _FAILURES:
            is_page = response.text.lstrip().startswith("<")
            said = response.reason if is_page else _last_line(response.text)
            raise ServiceFailed(f"{self._address}: answers with HTTP {response.status_code}: {said}; try again")
        return response

    def asked(self, method: str, endpoint: str, *, may_lack: bool = False, **options: Any) -> requests.Response:
        """The answer to a request that succeeds, or, where something `may_lack`, says that it is not there."""
        response = self._do_request(method, endpoint, **options)
        if response.status_code != requests.codes.ok and not (may_lack and response.status_code == _LACKING):
            self._raise_error(response)
        return response


class Jobs:
    """The jobs of one cluster.

    Each method raises ConnectionFailed when the cluster does not answer or lets nobody in, and SubmissionFailed when
    it refuses.
    """

    def __init__(self, address: str) -> None:
        """Connects.

        Args:
            address: of the dashboard. RAY_ADDRESS, which Ray would prefer, is not used.
        """
        self.address = check_address(address)
        for module in ("dashboard_sdk", "job.sdk"):
            # They tell of each upload and each connection.
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
        with _told(self.address), _address_not_of_environment():
            self._client = _Client(self.address)

    @property
    def version(self) -> str:
        """Of the cluster's Ray."""
        return str(self._client._server_ray_version)

    def submit(
        self,
        job: Job,
        archive: Path | str,
        pause: Callable[[float], object] = _NEVER.wait,
        clock: Callable[[], float] = time.monotonic,
    ) -> bool:
        """Submits a job; False when it was there already: a lost answer, or the same command twice, starts no second.

        Args:
            job: its metadata tell whether one of the same id is the same.
            archive: the package to bring along, or the address of one that the cluster has.

        Raises:
            ConnectionFailed: it is not known whether the job was submitted.
            SubmissionFailed: it was not.
        """
        environment = {
            "working_dir": str(archive),
            "worker_process_setup_hook": HOOK,
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **job.variables},
        }
        metadata = {MARK: job.words[0], **job.metadata}
        attempt, began = 0, clock()
        while True:
            attempt += 1
            try:
                with _told(self.address):
                    self._client.submit_job(
                        entrypoint=job.entrypoint,
                        submission_id=job.job_id,
                        runtime_env=dict(environment),
                        metadata=dict(metadata),
                    )
                return True
            except (ConnectionFailed, SubmissionFailed) as error:
                seen = self._look_up_again(job.job_id)
                is_starting = _NO_AGENT in str(error) and clock() - began < START_SECONDS
                if seen is None and attempt >= TRIES and not is_starting:
                    raise
                if seen is not None and any(seen.metadata.get(key) != value for key, value in metadata.items()):
                    raise SubmissionFailed(
                        f"--submission-id: {job.job_id} is the id of another job of this cluster: give a new one"
                    ) from None
                if seen is not None:
                    return False
            pause(RETRY_SECONDS)

    def look_up(self, job_id: str) -> Seen | None:
        """What the cluster says of a job; None when it does not know it."""
        with _told(self.address):
            answer = self._client.asked("GET", f"/api/jobs/{job_id}", may_lack=True)
            return None if answer.status_code == _LACKING else _seen(answer.json())

    def listed(self) -> dict[str, Seen]:
        """All submitted jobs that the cluster knows, by their ids."""
        with _told(self.address):
            jobs = self._client.asked("GET", "/api/jobs/").json()
            return {told["submission_id"]: _seen(told) for told in jobs if told.get("submission_id")}

    def _look_up_again(self, job_id: str) -> Seen | None:
        """As `look_up`; an answer that does not tell, such as a proxy's, is none."""
        try:
            return self.look_up(job_id)
        except SubmissionFailed as error:
            raise ConnectionFailed(str(error)) from None

    def find(self, job_id: str) -> Seen:
        """A sweep's job; raises SubmissionFailed when there is none of this id."""
        check_id(job_id)
        seen = self.look_up(job_id)
        if seen is None:
            raise SubmissionFailed(
                f"{job_id}: {self.address} knows no job of this id; a cluster forgets its jobs when its head node is "
                "started again (ray job list shows them)"
            )
        if not seen.is_sweep:
            raise SubmissionFailed(f"{job_id}: is no sweep: another program has submitted this job")
        return seen

    def stop(self, job_id: str) -> bool:
        """Asks a job to end in order; False when it has ended already."""
        with _told(self.address):
            return bool(self._client.stop_job(job_id))

    def logs(self, job_id: str) -> str:
        """All that a job has printed."""
        with _told(self.address):
            return str(self._client.get_job_logs(job_id))

    def delete(self, job_id: str) -> None:
        """Removes a job that has ended from the cluster's list."""
        with _told(self.address):
            self._client.delete_job(job_id)

    def put(self, name: str, content: bytes) -> None:
        """Puts a package into Ray's head service; it is removed from there by Ray after some minutes.

        Ray's own client sends a package in these two steps: the first, which asks whether it is there, sets the time
        after which it goes (dashboard/modules/job/job_head.py, 2.60: `get_package` pins it for
        RAY_RUNTIME_ENV_URI_PIN_EXPIRATION_S, 600 s).
        """
        with _told(self.address):
            for method, options in (("GET", {}), ("PUT", {"data": content})):
                self._client.asked(method, f"/api/packages/gcs/{name}", may_lack=True, **options)

    def files(self, node: str, folder: str) -> frozenset[str]:
        """Names of the files in a folder of a node's log folder; empty where there is none."""
        with _told(self.address):
            answer = self._client.asked("GET", "/api/v0/logs", params={"node_id": node, "glob": f"{folder}/*"})
            kinds = answer.json()["data"]["result"]
        return frozenset(Path(path).name for paths in kinds.values() for path in paths)

    def file(self, node: str, path: str) -> str:
        """The content of a file in a node's log folder."""
        with _told(self.address):
            asked = {"node_id": node, "filename": path, "lines": -1}
            return self._client.asked("GET", "/api/v0/logs/file", params=asked).content.decode()

    def tail(self, job_id: str) -> AsyncIterator[str]:
        """What a job prints, from its beginning and for as long as it runs. Raises whatever the connection does."""
        stream: AsyncIterator[str] = self._client.tail_job_logs(job_id)
        return stream


def driving(jobs: Jobs, job_id: str, seen: Seen) -> str | None:
    """Id of the job that runs the sweep of a job that has ended; None where none is known.

    A sweep that was resumed by its name or folder is not looked for: another one may have that name by now.
    """
    sweep = seen.sweep(job_id)
    try:
        listed = jobs.listed()
    except ClusterError:  # nothing depends on it: the lock of the sweep's folder lets in one driver
        return None
    running = [other for other, each in listed.items() if each.is_sweep and not each.has_ended]
    return next((other for other in running if sweep in listed and listed[other].sweep(other) == sweep), None)


def _seen(told: dict[str, Any]) -> Seen:
    return Seen(
        status=str(told["status"]),
        exit_code=told.get("driver_exit_code"),
        message=str(told.get("message") or ""),
        metadata=dict(told.get("metadata") or {}),
        package=(told.get("runtime_env") or {}).get("working_dir"),
        node=told.get("driver_node_id"),
    )


@contextmanager
def _address_not_of_environment() -> Iterator[None]:
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Turns what Ray's client raises into errors of this package."""
    try:
        yield
    except ClusterError:
        raise
    except AuthenticationError as error:
        raise ConnectionFailed(f"{address}: {not_let_in(str(error)) or _last_line(str(error))}") from None
    except (ConnectionError, requests.RequestException) as error:
        raise ConnectionFailed(
            f"{address}: no Ray dashboard answers there ({_reason(error)}): is the cluster up, is the address that of "
            "its dashboard (port 8265), and does a tunnel or port-forward to it still run?"
        ) from None
    except (RuntimeError, ValueError, LookupError, TypeError) as error:
        raise SubmissionFailed(f"{address}: {_last_line(str(error))}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    cause = first_cause(error)
    return getattr(cause, "strerror", None) or type(cause).__name__


def _last_line(text: str) -> str:
    """Ray puts the traceback of its server before what was wrong."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip(" .")]
    return lines[-1] if lines else "the cluster refused, without a reason"


def is_same_version(version: str) -> bool:
    """Whether the cluster's Ray is of the minor version that is installed here."""
    return version.split(".")[:2] == str(ray.__version__).split(".")[:2]
