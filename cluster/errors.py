"""Errors of this package. Each is also a standard error."""

from __future__ import annotations

from trainables.errors import QsweepError


class ClusterError(QsweepError):
    """Base of this package's errors, which are printed without a traceback."""

    exit_code = 2
    """The exit code of a command that ends with this error: 2 for what the user can mend."""


class ConnectionFailed(ClusterError, ConnectionError):  # noqa: N818 - reads as what happened
    """No Ray cluster is at the address."""


class ServiceFailed(ConnectionFailed):
    """The cluster, or a proxy before it, answers that it fails (HTTP 5xx)."""

    exit_code = 1


class SubmissionFailed(ClusterError, RuntimeError):  # noqa: N818 - reads as what happened
    """A job cannot be submitted, or the cluster refuses a request."""


class NoSuchJob(SubmissionFailed):
    """The cluster does not know the job."""


class NotStarted(ClusterError, RuntimeError):  # noqa: N818 - reads as what happened
    """Ray does not start on this machine, or a temporary folder cannot be made here."""

    exit_code = 1


class HostError(ClusterError, RuntimeError):
    """A host cannot start."""


class HostsDied(HostError):  # noqa: N818 - reads as what happened
    """Hosts die, fail or do not start in time: no mistake of the user's."""

    exit_code = 1


class LeaseOver(ClusterError, LookupError):  # noqa: N818 - reads as what happened
    """A lease is not open on this host. It is no KeyError, which a trainable may raise itself."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, or its type if there is no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def first_cause(error: BaseException) -> BaseException:
    """Returns the first error in the chain of causes; the error itself if it has no cause."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def not_let_in(text: str) -> str | None:
    """Returns a message for a person whom a Ray cluster refuses because of a token; None for any other text.

    Args:
        text: Ray's error (2.60: ray/_private/authentication, and the dashboard).
    """
    if text.startswith("Authentication required") or "no authentication token was found" in text:
        return (
            "the cluster wants a token and got none (401): set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH (ray get-auth-token on the head node prints the token)"
        )
    if text.startswith("Authentication failed") or "token is invalid or incorrect" in text:
        return (
            "the cluster does not accept this token (403): compare RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH or "
            "~/.ray/auth_token with that of the head node (ray get-auth-token)"
        )
    return None
