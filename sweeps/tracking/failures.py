"""Tells MLflow's errors apart: the store is away and another try may succeed, or it refuses for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import ClusterError
from sweeps.config.passwords import hidden
from sweeps.errors import Failed, SweepError
from sweeps.tracking.client import patient, quiet

_PASSING = (401, 403, 408, 409, 429)
"""HTTP codes below 500 after which another try may succeed: with other credentials, or a less busy server."""


def is_away(error: Exception) -> bool:
    """Tells whether a store does not answer, or fails itself: another try may succeed.

    MLflow's client raises INTERNAL_ERROR for requests that it cannot send and for HTTP 500, but also for a database
    with the tables of another version (mlflow/utils/rest_utils.py and store/db/utils.py, 3.17.2).
    """
    from mlflow.exceptions import MlflowException, RestException
    from requests import HTTPError, RequestException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code >= 500
    if isinstance(error, MlflowException):
        is_served = isinstance(error, RestException) or str(error).startswith("API request")
        return error.error_code == "TEMPORARILY_UNAVAILABLE" or (is_served and error.get_http_status_code() >= 500)
    return isinstance(error, (RequestException, OperationalError))


def is_refusal(error: Exception) -> bool:
    """Tells whether MLflow will never take what it was sent: another try would fail as well."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    if isinstance(error, HTTPError) and error.response is not None:
        # Only artifacts raise HTTPError, such as one that is too large for a proxy. Other events may pass.
        return 400 <= error.response.status_code < 500 and error.response.status_code not in _PASSING
    # Such as points of a run that somebody has deleted (store/tracking/sqlalchemy_store.py, 3.17.2).
    refused = isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"
    return refused or isinstance(error, FileNotFoundError)


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Raises errors of MLflow in the block without passwords: as `Failed` if it is away, else as `SweepError`.

    Errors of this machine's disk are raised as `Failed` too.
    """
    quiet()
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SweepError, ClusterError):
        raise
    # ModuleNotFoundError: the database's driver is not installed.
    except (MlflowException, RequestException, SQLAlchemyError, ModuleNotFoundError) as error:
        reason = (hidden(str(error).strip()).splitlines() or [type(error).__name__])[0]
        raise (Failed if is_away(error) else SweepError)(f"MLflow ({uri}): {reason}") from error
    except OSError as error:
        raise Failed(f"this machine: {error}: mend that, and do it again") from error


@contextmanager
def of_artifacts() -> Iterator[None]:
    """Gives the block, which sends or fetches artifacts, the time that this takes (`patient`).

    MLflow reaches S3 and the like through other libraries, and does not convert their errors: these are raised as
    `Failed`.
    """
    from mlflow.exceptions import MlflowException

    try:
        with patient():
            yield
    except (MlflowException, OSError, ImportError, SweepError):
        raise
    except Exception as error:  # boto3 alone has several kinds, without a common base
        said = hidden(f"{type(error).__name__}: {error}").splitlines()[0]
        raise Failed(f"the store of MLflow's artifacts: {said}") from error
