"""Ray's client of the Jobs API, with time limits for its requests and with this project's errors."""

from __future__ import annotations

import logging
import os
from typing import Any, NoReturn

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from cluster import timeouts
from cluster.errors import (
    ClusterError,
    ConnectionFailed,
    NoSuchJob,
    ServiceFailed,
    SubmissionFailed,
    first_cause,
    not_let_in,
)

_FAILURES = 500
"""Lowest HTTP status of a failing server, or of a failing proxy before it."""


class Client(JobSubmissionClient):
    """Raises ConnectionFailed and SubmissionFailed in place of the errors of Ray's client."""

    def __init__(self, address: str) -> None:
        """Connects to the dashboard at the address; Ray's client would prefer RAY_ADDRESS."""
        for module in ("dashboard_sdk", "job.sdk"):
            # These loggers report each upload and each connection.
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
        names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
        before = {name: os.environ.pop(name) for name in names if name in os.environ}
        try:
            super().__init__(address)
        except ClusterError:
            raise
        except (requests.RequestException, ValueError, LookupError, TypeError) as error:
            raise _no_dashboard(address, error) from None
        except RuntimeError as error:
            raise SubmissionFailed(f"{address}: {_last_line(str(error))}") from None
        finally:
            os.environ.update(before)

    @property
    def version(self) -> str:
        """Returns the version of the cluster's Ray."""
        return str(self._server_ray_version)

    @property
    def is_same_version(self) -> bool:
        """Tells whether the cluster's Ray has the minor version of the Ray that is installed here."""
        return self.version.split(".")[:2] == str(ray.__version__).split(".")[:2]

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        seconds = timeouts.JOB_UPLOAD_SECONDS if method == "PUT" else timeouts.JOB_ANSWER_SECONDS
        try:
            response: requests.Response = super()._do_request(
                method, endpoint, timeout=(timeouts.JOB_CONNECT_SECONDS, seconds), **options
            )
        except AuthenticationError as error:
            raise ConnectionFailed(f"{self._address}: {not_let_in(str(error)) or _last_line(str(error))}") from None
        except requests.RequestException as error:
            raise _no_dashboard(self._address, error) from None
        if response.status_code >= _FAILURES:
            is_page = response.text.lstrip().startswith("<")
            said = response.reason if is_page else _last_line(response.text)
            raise ServiceFailed(f"{self._address}: answers with HTTP {response.status_code}: {said}; try again")
        return response

    def _raise_error(self, r: requests.Response) -> NoReturn:
        kind = NoSuchJob if r.status_code == requests.codes.not_found else SubmissionFailed
        raise kind(f"{self._address}: answers with HTTP {r.status_code}: {_last_line(r.text)}")


def _no_dashboard(address: str, error: Exception) -> ConnectionFailed:
    cause = first_cause(error)
    reason = getattr(cause, "strerror", None) or type(cause).__name__
    if isinstance(error, requests.Timeout):
        reason = "no answer in time"
    return ConnectionFailed(
        f"{address}: no Ray dashboard answers there ({reason}): is the cluster up, is the address that of its "
        "dashboard (port 8265), and does a tunnel or port-forward to it still run?"
    )


def _last_line(text: str) -> str:
    """Returns the last line of an answer: Ray puts its server's traceback before the reason."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip(" .")]
    return lines[-1] if lines else "the cluster refused, without a reason"
