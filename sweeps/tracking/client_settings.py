"""How MLflow's client behaves in this process: it reads the environment at each request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
ENVIRONMENT = {
    _TIMEOUT: "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Unless users set them otherwise."""
ARTIFACT_SECONDS = 600
"""How long a server may take to answer to a file.

Where it keeps artifacts in a bucket, it answers to an upload once all of the file is there, and to a download once it
has all of it (`_upload_artifact` and `_download_artifact` in mlflow/server/handlers.py, 3.17.2). An adapter of r 64 for
a base of 70 billion parameters has 3.3 GB.
"""


def quiet() -> None:
    """Sets MLflow's environment, and silences messages that users do not need."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import logging

    import mlflow  # noqa: F401 - it sets levels of its own when it is imported

    # Database migrations and artifact uploads talk at INFO.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Prints what a database refuses, with a traceback, and raises it as well (mlflow/store/db/utils.py, 3.17.2).
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


@contextmanager
def without_retries() -> Iterator[None]:
    """Lets the client send each request of the block once, in all threads, unless users set it otherwise.

    For the tracking writer, which repeats what failed, and looks for the run first: the client's own retries would
    block it for minutes, and make a run twice when only the answer was lost. All else needs them: one answer of a busy
    server must not cost a promotion its evaluation (mlflow/environment_variables.py, 3.17.2).
    """
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    with _set(name, os.environ.get(name, "0")):
        yield


@contextmanager
def patient() -> Iterator[None]:
    """Gives the requests of the block, which send or fetch artifacts, `ARTIFACT_SECONDS`; more if users set more.

    By the environment of the process, so requests that other threads send meanwhile are as patient: MLflow gives those
    of artifacts no timeout of their own, and fetches in threads of its own (`_download_file` in
    mlflow/store/artifact/http_artifact_repo.py and `download_artifacts` in artifact_repo.py beside it, 3.17.2).
    """
    with _set(_TIMEOUT, str(max(ARTIFACT_SECONDS, int(os.environ[_TIMEOUT])))):
        yield


@contextmanager
def _set(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
