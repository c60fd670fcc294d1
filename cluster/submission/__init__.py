"""How a sweep gets to a cluster from a machine that is not part of it: a job of Ray's, with code and files."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cluster.errors import SubmissionFailed

if TYPE_CHECKING:
    from cluster.submission.jobs import Jobs

STOP_SECONDS = 900
"""How long Ray lets a job that was asked to stop save its trials and deliver to MLflow before it kills it. Ray's own
time is 3 s (dashboard/modules/job/job_supervisor.py, 2.60)."""
_USER = re.compile(r"^([A-Za-z][\w+.-]*://)?.*@", re.DOTALL)
"""A password may hold / and ?, so all before the last @ counts."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


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
        raise SubmissionFailed(
            f"--address: {_shown(address)!r} must be that of the cluster's dashboard, without a user, ? and #: "
            "http://HOST:8265"
        )
    return address.rstrip("/")


def _shown(address: str) -> str:
    """A wrong address without what may be secret in it: a user, a password, parameters."""
    return re.sub(r"([?#]).*", r"\1***", _USER.sub(r"\1***@", address), flags=re.DOTALL)


def connect(address: str) -> Jobs:
    """The jobs of the cluster whose dashboard is at the address.

    Raises:
        ConnectionFailed: it does not answer, or wants another token.
        SubmissionFailed: this is no address of a dashboard.
    """
    check_address(address)
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        # Else Ray sends no token, and says that there is none. It reads this when it is imported, so not before here.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from cluster.submission.jobs import Jobs

    return Jobs(address)
