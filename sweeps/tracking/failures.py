"""What MLflow's errors mean: it is away and another try may succeed, it refuses for good, or it does not have that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import ClusterError
from sweeps.config.passwords import without_password, without_passwords
from sweeps.errors import Failed, SweepError
from sweeps.tracking.client import patient, quiet

_PASSING = (401, 403, 408, 409, 429)
"""HTTP answers below 500 after which another try may succeed: with other credentials, or a less busy server."""


def is_away(error: Exception) -> bool:
    """Whether a store does not answer, or fails itself: another try may succeed.

    The client raises as INTERNAL_ERROR what it cannot send and what a server answers with HTTP 500, but also that a
    database has the tables of another version (mlflow/utils/rest_utils.py and store/db/utils.py, 3.17.2).
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
    """Whether MLflow will never take what it was sent: another try would fail as well."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    # Among others: points of a run that somebody has deleted (store/tracking/sqlalchemy_store.py, 3.17.2).
    if isinstance(error, HTTPError) and error.response is not None:
        # An artifact: all else comes as MlflowException. Too large for a proxy, for one; what is left may pass.
        return 400 <= error.response.status_code < 500 and error.response.status_code not in _PASSING
    refused = isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"
    return refused or isinstance(error, FileNotFoundError)


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Raises errors of MLflow in the block, without passwords: as `Failed` where it is away, else as `SweepError`.

    What the disk of this machine refuses is `Failed` too.
    """
    quiet()
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SweepError, ClusterError):
        raise
    # The last: a database whose driver is not installed.
    except (MlflowException, RequestException, SQLAlchemyError, ModuleNotFoundError) as error:
        reason = (without_passwords(str(error).strip(), uri).splitlines() or [type(error).__name__])[0]
        raise (Failed if is_away(error) else SweepError)(f"MLflow ({without_password(uri)}): {reason}") from error
    except OSError as error:
        raise Failed(f"this machine: {error}: mend that, and do it again") from error


@contextmanager
def of_artifacts() -> Iterator[None]:
    """Sends or fetches artifacts in the block, with the time that takes (`patient`).

    MLflow reaches S3 and the like through libraries of theirs and lets their errors through: those are `Failed`.
    """
    from mlflow.exceptions import MlflowException

    try:
        with patient():
            yield
    except (MlflowException, OSError, ImportError, SweepError):
        raise
    except Exception as error:  # boto3 alone has several kinds, with no common one above them
        said = without_passwords(f"{type(error).__name__}: {error}").splitlines()[0]
        raise Failed(f"the store of MLflow's artifacts: {said}") from error
