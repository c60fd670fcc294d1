"""Opens an object store, and says why a store refuses or does not answer, without credentials and tokens.

Credentials come from the environment and the machine's role, as obstore 0.12 reads them. A store's answer may hold
credentials: S3 sends back an expired session token and the key's id. So only status and code of an answer are shown.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import Any

from cluster import timeouts

_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role gives them",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run where a service account gives them",
}
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired")
"""Codes of S3 and of AWS's token service for temporary credentials that have expired."""
_CODE = re.compile(r"<Code>(\w{1,80})</Code>")
_ANSWER = re.compile(r"(status code: \d{3}[A-Za-z' -]*).*")


def opened(uri: str, seconds: float = timeouts.STORE_REQUEST_SECONDS, retries: int = 1) -> Any:
    """Opens the objects below a URI as an obstore store. Sends no request yet.

    Args:
        seconds: limit of one request.
        retries: how often obstore repeats a request; a caller with more patience asks again.

    Raises:
        obstore.exceptions.BaseError: the environment holds an impossible value.
    """
    from obstore.store import from_url

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    client: Any = {
        "timeout": timedelta(seconds=seconds),
        "connect_timeout": timedelta(seconds=timeouts.STORE_CONNECT_SECONDS),
        # An http:// address is a deliberate choice: a server in the user's own network, or in a test.
        "allow_http": endpoint.startswith("http://"),
    }
    again: Any = {"max_retries": retries, "retry_timeout": timedelta(seconds=timeouts.STORE_REQUEST_SECONDS)}
    return from_url(uri, client_options=client, retry_config=again)


def reason(error: Exception, uri: str) -> str:
    """Returns why the store refuses or does not answer. A password in the text's addresses is not removed."""
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text = str(error)
    way_out = _CREDENTIALS[uri[:2]]
    found = _CODE.search(text)
    code = found[1] if found else ""
    if is_bucket_missing(error):
        return "there is no such bucket: make it, or name another with storage=URI"
    if code in _EXPIRED:
        together = "; AWS_SESSION_TOKEN belongs to the two keys it came with" if uri.startswith("s3") else ""
        return f"the credentials have expired ({code}): get new ones{together}"
    if any(word in text for word in ("169.254.169.254", "metadata.google.internal", "token request")):
        return f"no credentials are found: {way_out}"
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or "403 Forbidden" in text:
        return f"access is denied to these credentials: {way_out}" + (f" ({code})" if code else "")
    if "error sending request" in text or "timed out" in text:
        return "does not answer"
    line = _ANSWER.sub(r"\1", next(iter(text.splitlines()), type(error).__name__)).partition("<")[0].rstrip(" :")
    return line[:300] + (f": {code}" if code else "")


def is_bucket_missing(error: Exception) -> bool:
    """Tells whether a store says that it has no such bucket."""
    return "NoSuchBucket" in str(error) or "specified bucket does not exist" in str(error)
