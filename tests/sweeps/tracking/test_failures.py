"""What MLflow's errors mean to whoever asked it for something."""

from __future__ import annotations

import errno

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from sqlalchemy.exc import OperationalError

from cluster.errors import ConnectionFailed
from sweeps.errors import Failed, StorageError, SweepError
from sweeps.tracking.failures import answering, is_refusal


def test_a_store_that_is_away_is_told_apart_from_what_is_not_in_it():
    answer = requests.Response()
    answer.status_code = 404
    of_server = RestException({"error_code": "INTERNAL_ERROR", "message": "database is gone"})
    for error, is_away in (
        (MlflowException("API request to http://x failed with exception refused"), True),
        (of_server, True),
        (MlflowException("locked", error_code=TEMPORARILY_UNAVAILABLE), True),
        (requests.ConnectionError("refused"), True),
        (OperationalError("select", {}, Exception("gone")), True),
        (requests.HTTPError("no file", response=answer), False),
        (MlflowException("Detected out-of-date database schema"), False),
        (MlflowException("no run", error_code=RESOURCE_DOES_NOT_EXIST), False),
        (ModuleNotFoundError("No module named 'psycopg2'"), False),
    ):
        with pytest.raises(SweepError, match=r"MLflow \(http://x\): ") as told, answering("http://x"):
            raise error
        assert told.value.exit_code == (1 if is_away else 2), error


@pytest.mark.parametrize("error", [StorageError("the folder is gone"), ConnectionFailed("no Ray there")])
def test_our_own_errors_stay_as_they_are_though_they_are_of_the_system_too(error):
    with pytest.raises(type(error)) as told, answering("http://x"):
        raise error
    assert told.value is error


def test_what_a_disk_refuses_is_told_and_is_no_mistake():
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/x")
    with pytest.raises(Failed, match=r"^this machine: .* No space left on device: '/tmp/x': mend"):  # noqa: SIM117
        with answering("http://x"):
            raise full


@pytest.mark.parametrize(("status", "refuses"), [(413, True), (404, True), (403, False), (429, False), (500, False)])
def test_what_a_proxy_answers_to_an_artifact(status, refuses):
    response = requests.Response()
    response.status_code = status
    assert is_refusal(requests.HTTPError(response=response)) is refuses


@pytest.mark.parametrize(
    ("code", "refuses"), [("INVALID_PARAMETER_VALUE", True), ("INTERNAL_ERROR", False), ("PERMISSION_DENIED", False)]
)
def test_what_a_server_answers_to_an_event(code, refuses):
    assert is_refusal(RestException({"error_code": code, "message": "no"})) is refuses
