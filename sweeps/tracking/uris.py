"""Tracking URIs, without importing MLflow."""

from __future__ import annotations

import re
from pathlib import Path

_SQLITE = "sqlite:///"
# user:password@ of an authority; a quote ends it, since URIs also stand in JSON. And the parameters that database
# drivers take a password from.
_PASSWORD = re.compile(r"""(://[^\s/?#"':@]*:)[^\s/"']*(?=@)|([?&](?:ssl)?(?:password|passwd|pwd|token)=)[^\s&"']+""")


def artifact_root(uri: str) -> str | None:
    """Where artifacts of an experiment go: beside a SQLite database; None where the server decides."""
    return (Path(uri.removeprefix(_SQLITE)).parent / "mlartifacts").as_uri() if uri.startswith(_SQLITE) else None


def without_password(text: str) -> str:
    """The URI, or the text with URIs in it, as it may be shown: passwords become ***."""
    return _PASSWORD.sub(r"\1\2***", text)
